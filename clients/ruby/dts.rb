#!/usr/bin/env ruby
# Calls a dtsd with Ruby's xmlrpc (Debian: ruby-xmlrpc). See docs/dtsd.md.
#
#   dts.rb URL USER SECRET_FILE METHOD [ARGUMENT...]
#
# An argument of digits is an int, true and false are booleans, @FILE sends the bytes of a file, all else is a string.
require "openssl"
require "securerandom"
require "xmlrpc/client"

# An XML-RPC client that signs what it says and proves what it hears.
class Dts < XMLRPC::Client
  def initialize(url, user, secret)
    super(*XMLRPC::Client.new2(url).instance_eval { [@host, @path, @port, nil, nil, nil, nil, @use_ssl, @timeout] })
    @user_name, @secret = user, secret
  end

  private

  def do_rpc(body, async = false)
    nonce = SecureRandom.hex(16)
    time = Time.now.to_i.to_s
    said = ["DTS1", @user_name, time, nonce, OpenSSL::Digest::SHA256.hexdigest(body)].join("\n")
    self.http_header_extra = {
      "X-DTS-User" => @user_name, "X-DTS-Time" => time, "X-DTS-Nonce" => nonce, "X-DTS-Signature" => hmac(said),
      "accept-encoding" => "identity"
    }
    data = super
    said = ["DTS1 answer", nonce, OpenSSL::Digest::SHA256.hexdigest(data)].join("\n")
    raise "the answer is not the daemon's" unless http_last_response["X-DTS-Signature"] == hmac(said)
    data
  end

  def hmac(said)
    OpenSSL::HMAC.hexdigest("SHA256", @secret, said)
  end
end

def argument(word)
  case word
  when "true", "false" then word == "true"
  when /\A-?[0-9]{1,15}\z/ then word.to_i.abs < 2**31 ? word.to_i : word.to_f # it sends no i8, and reads it
  when /\A@(.+)\z/m then XMLRPC::Base64.new(File.binread($1))
  else word
  end
end

def show(value, indent = 0)
  case value
  when Hash then value.sort.each { |name, one| show_line("#{name}:", one, indent) }
  when Array then value.each { |one| show_line("-", one, indent) }
  else puts "#{" " * indent}#{value}"
  end
end

def show_line(head, value, indent)
  if value.is_a?(Hash) || value.is_a?(Array)
    puts "#{" " * indent}#{head}"
    show(value, indent + 2)
  else
    puts "#{" " * indent}#{head} #{value}"
  end
end

abort "usage: dts.rb URL USER SECRET_FILE METHOD [ARGUMENT...]" if ARGV.length < 4
url, user, secret_file, method, *words = ARGV.map { |word| word.dup.force_encoding("UTF-8") }
begin
  show(Dts.new(url, user, File.read(secret_file).strip).call(method, *words.map { |word| argument(word) }))
rescue XMLRPC::FaultException => fault
  warn "fault #{fault.faultCode}: #{fault.faultString}"
  exit 1
end
