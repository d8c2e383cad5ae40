#!/usr/bin/perl
# Calls a dtsd with RPC::XML (Debian: librpc-xml-perl). See docs/dtsd.md.
#
#   dts.pl URL USER SECRET_FILE METHOD [ARGUMENT...]
#
# An argument of digits is an int, true and false are booleans, @FILE sends the bytes of a file, all else is a string.
use strict;
use warnings;
use utf8;
use open qw(:std :encoding(UTF-8));
use Digest::SHA qw(sha256_hex hmac_sha256_hex);
use Encode qw(decode_utf8);
use RPC::XML;
use RPC::XML::Client;

$RPC::XML::ENCODING = 'utf-8';
my ($url, $user, $secret_file, $method, @words) = map { decode_utf8($_) } @ARGV;
die "usage: dts.pl URL USER SECRET_FILE METHOD [ARGUMENT...]\n" unless defined $method;
open my $file, '<', $secret_file or die "$secret_file: $!\n";
chomp(my $secret = <$file>);

# The request is signed: user, time, nonce and the SHA-256 of the body, under the user's secret.
sub sign {
    my ($request) = @_;
    my ($time, $nonce) = (time, random_hex(16));
    my $said = join "\n", 'DTS1', $user, $time, $nonce, sha256_hex($request->content);
    $request->header('X-DTS-User' => $user, 'X-DTS-Time' => $time, 'X-DTS-Nonce' => $nonce,
                     'X-DTS-Signature' => hmac_sha256_hex($said, $secret));
    return;
}

# And so is the answer: whoever does not know the secret cannot have made it. RPC::XML::Client reads the body by the way,
# so we take it by the way as well.
my $body = Digest::SHA->new(256);

sub gather {
    my ($response, $agent, $handler, $data) = @_;
    $body->add($data);
    return 1;
}

sub verify {
    my ($response) = @_;
    my $sum = $body->hexdigest;
    return unless $response->code == 200;
    my $nonce = $response->request->header('X-DTS-Nonce');
    my $right = hmac_sha256_hex(join("\n", 'DTS1 answer', $nonce, $sum), $secret);
    die "the answer is not the daemon's\n" unless ($response->header('X-DTS-Signature') // '') eq $right;
    return;
}

sub random_hex {
    my ($bytes) = @_;
    open my $random, '<:raw', '/dev/urandom' or die "/dev/urandom: $!\n";
    read $random, my ($data), $bytes;
    return unpack 'H*', $data;
}

sub argument {
    my ($word) = @_;
    return RPC::XML::boolean->new($word) if $word =~ /\A(?:true|false)\z/;
    if ($word =~ /\A-?[0-9]{1,18}\z/) {
        return abs($word) < 2**31 ? RPC::XML::int->new($word) : RPC::XML::i8->new($word);
    }
    if ($word =~ /\A@(.+)\z/s) {
        open my $data, '<:raw', $1 or die "$1: $!\n";
        local $/ = undef;
        return RPC::XML::base64->new(<$data>);
    }
    return RPC::XML::string->new($word);
}

sub show {
    my ($value, $indent) = @_;
    if (ref $value eq 'HASH') { show_line("$_:", $value->{$_}, $indent) for sort keys %$value }
    elsif (ref $value eq 'ARRAY') { show_line('-', $_, $indent) for @$value }
    else { print ' ' x $indent, $value, "\n" }
    return;
}

sub show_line {
    my ($head, $value, $indent) = @_;
    if (ref $value) { print ' ' x $indent, "$head\n"; show($value, $indent + 2) }
    else { print ' ' x $indent, "$head $value\n" }
    return;
}

my $client = RPC::XML::Client->new($url);
$client->useragent->add_handler(request_prepare => \&sign);
$client->useragent->add_handler(response_data => \&gather);
$client->useragent->add_handler(response_done => \&verify);
my $answer = $client->send_request($method, map { argument($_) } @words);
die "error: $answer\n" unless ref $answer;
if ($answer->is_fault) {
    print STDERR 'fault ', $answer->code, ': ', $answer->string, "\n";
    exit 1;
}
show($answer->value, 0);
