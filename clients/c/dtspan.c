/*
 * The camera's side of the protocol between a PAN and a builder node; docs/pan-protocol.md has every byte of it.
 *
 * For each row that was handed over the library keeps one byte: waiting, sent, or there. All that happens on a
 * connection only changes these bytes; flush() sends whatever is waiting. So a lost connection, rows that a node
 * misses, and a block whose sum was wrong on arrival are one and the same case.
 */
#define _POSIX_C_SOURCE 200809L

#include "dtspan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    HELLO = 1, CHALLENGE, PROOF, WELCOME, LABEL, LABELLED, WHERE, HERE, BEGIN, ACCEPTED, METADATA, BLOCK, END, RECEIVED,
    SAVED, BUSY, ERROR, PING, PONG, BYE
};
enum { WAITING = 0, SENT = 1, THERE = 2 };

#define HEADER_BYTES 36
#define SUMMED_BYTES 32
#define BODY_CAP 8192
#define METADATA_CAP 65536
#define LIST_CAP 262144
#define BLOCK_CAP (16u << 20)
#define FRAME_CAP (HEADER_BYTES + BODY_CAP + LIST_CAP)
#define NAME_ROOM 33
#define ADDRESS_ROOM 300
#define MOST_WIRES 64
#define OWNERS 4096     /* frames for which it is remembered which exposure they belong to */
#define PAUSE 0.25      /* seconds before a lost exposure is begun again */
#define ROUNDS 100      /* how often in a row a node may miss rows of one exposure before the connection is given up */

static const char *const TYPE_NAMES[] = {"uint16", "int16", "uint32", "int32", "float32"};
static const uint32_t TYPE_BYTES[] = {2, 2, 4, 4, 4};

typedef struct part { /* rows of one amplifier that were handed over in one call */
    struct part *next;
    char detector[NAME_ROOM], amplifier[NAME_ROOM];
    uint32_t row, rows, row_bytes;
    const unsigned char *pixels;
    unsigned char *marks;
    int saved;
} part;

typedef struct cards {
    struct cards *next;
    char detector[NAME_ROOM];
    int sent;
    uint64_t sequence;
    char text[];
} cards;

typedef struct wire { /* a connection to a supervisor or node */
    struct wire *next;
    int descriptor; /* -1 once it is lost */
    char address[ADDRESS_ROOM];
    uint64_t sequence, asked;
    uint32_t block_bytes;
    double idle, last_sent, last_heard;
    size_t filled;
    int answer, pong_due;
    int64_t owners[OWNERS];
    char answered[BODY_CAP + 1];
    unsigned char frame[FRAME_CAP];
} wire;

typedef struct exposure {
    struct exposure *next;
    int64_t number;
    char *detectors, *expected;
    dtspan_type type;
    part *parts;
    cards *cards;
    wire *wire;
    uint64_t begun, end_sequence;
    int accepted, ended, end_sent, refused, rounds;
    double not_before, end_not_before;
    dtspan_status status;
} exposure;

struct dtspan {
    char *addresses, *camera, *pan, *software;
    unsigned char secret[512];
    size_t secret_size;
    double timeout;
    wire *wires;
    exposure *exposures;
    char message[1024], code[64]; /* the last thing that went wrong, and the code of the last refused question */
    uint32_t table[8][256];
};

typedef struct {
    char text[BODY_CAP + 1];
    size_t size;
    int broken;
} body;

/* --- messages and time --- */

static int say(dtspan *link, int result, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(link->message, sizeof link->message, format, values);
    va_end(values);
    return result;
}

static double now(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return (double)moment.tv_sec + 1e-9 * (double)moment.tv_nsec;
}

static int milliseconds(double until) {
    double left = (until - now()) * 1000.0;
    return left <= 0 ? 0 : left > 3.6e6 ? 3600000 : (int)left + 1;
}

static char *copied(const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

/* --- sums: CRC32C by eight tables, SHA-256 of FIPS 180-4, HMAC of RFC 2104 --- */

static void make_table(uint32_t table[8][256]) {
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t sum = value;
        for (int bit = 0; bit < 8; bit++)
            sum = (sum >> 1) ^ (sum & 1 ? 0x82F63B78u : 0);
        table[0][value] = sum;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int value = 0; value < 256; value++)
            table[slice][value] = (table[slice - 1][value] >> 8) ^ table[0][table[slice - 1][value] & 0xFF];
}

static uint32_t little32(const unsigned char *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint32_t dtspan_crc32c(const dtspan *link, uint32_t start, const void *data, size_t size) {
    const uint32_t (*table)[256] = (const uint32_t (*)[256])link->table;
    const unsigned char *at = data;
    uint32_t sum = ~start;
    for (; size >= 8; size -= 8, at += 8) {
        uint32_t low = sum ^ little32(at), high = little32(at + 4);
        sum = table[7][low & 0xFF] ^ table[6][low >> 8 & 0xFF] ^ table[5][low >> 16 & 0xFF] ^ table[4][low >> 24]
            ^ table[3][high & 0xFF] ^ table[2][high >> 8 & 0xFF] ^ table[1][high >> 16 & 0xFF] ^ table[0][high >> 24];
    }
    for (; size; size--, at++)
        sum = (sum >> 8) ^ table[0][(sum ^ *at) & 0xFF];
    return ~sum;
}

typedef struct {
    uint32_t state[8];
    uint64_t size;
    unsigned char block[64];
} sha256;

static const uint32_t SHA_ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turned(uint32_t value, int bits) {
    return value >> bits | value << (32 - bits);
}

static void put32(unsigned char *at, uint32_t value) {
    for (int index = 0; index < 4; index++)
        at[index] = (unsigned char)(value >> (24 - 8 * index));
}

static uint32_t get32(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
}

static void sha_block(sha256 *sum) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = get32(sum->block + 4 * i);
    for (int i = 16; i < 64; i++) {
        uint32_t low = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t high = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
    }
    memcpy(s, sum->state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t high = turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25);
        uint32_t first = s[7] + high + ((s[4] & s[5]) ^ (~s[4] & s[6])) + SHA_ROUND[i] + w[i];
        uint32_t low = turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22);
        uint32_t second = low + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += first;
        s[0] = first + second;
    }
    for (int i = 0; i < 8; i++)
        sum->state[i] += s[i];
}

static void sha_start(sha256 *sum) {
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sum->state, first, sizeof first);
    sum->size = 0;
}

static void sha_add(sha256 *sum, const void *data, size_t size) {
    const unsigned char *at = data;
    for (size_t index = 0; index < size; index++) {
        sum->block[sum->size++ % 64] = at[index];
        if (sum->size % 64 == 0)
            sha_block(sum);
    }
}

static void sha_end(sha256 *sum, unsigned char digest[32]) {
    uint64_t bits = sum->size * 8;
    unsigned char length[8];
    put32(length, (uint32_t)(bits >> 32));
    put32(length + 4, (uint32_t)bits);
    sha_add(sum, "\x80", 1);
    while (sum->size % 64 != 56)
        sha_add(sum, "", 1);
    sha_add(sum, length, 8);
    for (int index = 0; index < 8; index++)
        put32(digest + 4 * index, sum->state[index]);
}

static void hmac_pass(const unsigned char key[64], int mask, const void *data, size_t size, unsigned char digest[32]) {
    unsigned char masked[64];
    sha256 sum;
    for (int index = 0; index < 64; index++)
        masked[index] = (unsigned char)(key[index] ^ mask);
    sha_start(&sum);
    sha_add(&sum, masked, sizeof masked);
    sha_add(&sum, data, size);
    sha_end(&sum, digest);
}

void dtspan_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size, unsigned char digest[32]) {
    unsigned char padded[64] = {0}, inner[32];
    if (key_size > sizeof padded) {
        sha256 sum;
        sha_start(&sum);
        sha_add(&sum, key, key_size);
        sha_end(&sum, padded);
    } else if (key_size) {
        memcpy(padded, key, key_size);
    }
    hmac_pass(padded, 0x36, data, size, inner);
    hmac_pass(padded, 0x5c, inner, sizeof inner, digest);
}

/* --- bodies: lines key=value --- */

static void add(body *lines, const char *key, const char *format, ...) {
    size_t room = sizeof lines->text - lines->size;
    int head = snprintf(lines->text + lines->size, room, "%s=", key);
    char *value = lines->text + lines->size + head;
    va_list values;
    int size;
    if (head < 0 || (size_t)head >= room) {
        lines->broken = 1;
        return;
    }
    va_start(values, format);
    size = vsnprintf(value, room - (size_t)head, format, values);
    va_end(values);
    if (size < 0 || (size_t)head + (size_t)size + 2 > room) {
        lines->broken = 1;
        return;
    }
    for (int index = 0; index < size; index++)
        if ((unsigned char)value[index] < 0x20 || value[index] == 0x7f)
            lines->broken = 1;
    lines->size += (size_t)head + (size_t)size;
    lines->text[lines->size++] = '\n';
    lines->text[lines->size] = '\0';
}

/* Copy the value of a key, cut to the room; 0 and an empty text if the key is not there. */
static int field(const char *text, const char *key, char *value, size_t room) {
    size_t length = strlen(key);
    value[0] = '\0';
    while (*text) {
        size_t line = strcspn(text, "\n");
        if (line > length && text[length] == '=' && strncmp(text, key, length) == 0) {
            size_t size = line - length - 1 < room - 1 ? line - length - 1 : room - 1;
            memcpy(value, text + length + 1, size);
            value[size] = '\0';
            return 1;
        }
        text += line + (text[line] == '\n');
    }
    return 0;
}

static int number_field(const char *text, const char *key, uint64_t most, uint64_t *value) {
    char digits[24], *end;
    if (!field(text, key, digits, sizeof digits) || !digits[0] || strspn(digits, "0123456789") != strlen(digits))
        return 0;
    errno = 0;
    *value = strtoull(digits, &end, 10);
    return errno == 0 && *value <= most;
}

/* --- exposures and their rows --- */

static exposure *find(const dtspan *link, int64_t number) {
    exposure *one = link->exposures;
    while (one && one->number != number)
        one = one->next;
    return one;
}

/* Mark rows first..last; a row that is there is only taken back by a mark of WAITING. */
static void mark(exposure *one, const char *detector, const char *amplifier, uint64_t first, uint64_t last, int to) {
    for (part *at = one->parts; at; at = at->next) {
        if (strcmp(at->detector, detector) || strcmp(at->amplifier, amplifier))
            continue;
        for (uint32_t row = 0; row < at->rows; row++)
            if (at->row + row >= first && at->row + row <= last)
                at->marks[row] = (unsigned char)to;
    }
}

static void forget_marks(exposure *one) {
    for (part *at = one->parts; at; at = at->next)
        memset(at->marks, WAITING, at->rows);
    for (cards *at = one->cards; at; at = at->next)
        at->sent = 0, at->sequence = 0;
}

/* Mark all rows of a list "S1 A 0-99" a line. */
static void mark_list(exposure *one, const char *list, int to) {
    char detector[NAME_ROOM], amplifier[NAME_ROOM];
    uint64_t first, last;
    while (*list) {
        if (sscanf(list, "%32s %32s %" SCNu64 "-%" SCNu64, detector, amplifier, &first, &last) == 4)
            mark(one, detector, amplifier, first, last, to);
        list += strcspn(list, "\n");
        list += *list == '\n';
    }
}

static int any_marked(const exposure *one, int what) {
    for (const part *at = one->parts; at; at = at->next)
        if (memchr(at->marks, what, at->rows))
            return 1;
    return 0;
}

/* --- connections --- */

static void leave_node(exposure *one) {
    one->wire = NULL;
    one->accepted = one->end_sent = 0;
    one->not_before = now() + PAUSE;
}

/* A lost connection stays in the list, without its socket, until sweep(): somebody up the stack still looks at it. */
static void cut(dtspan *link, wire *one, const char *format, ...) {
    va_list values;
    char why[600];
    if (one->descriptor < 0)
        return;
    va_start(values, format);
    vsnprintf(why, sizeof why, format, values);
    va_end(values);
    say(link, 0, "%s: %s", one->address, why);
    close(one->descriptor);
    one->descriptor = -1;
    for (exposure *at = link->exposures; at; at = at->next)
        if (at->wire == one)
            leave_node(at);
}

static void sweep(dtspan *link) {
    for (wire **at = &link->wires; *at;) {
        wire *one = *at;
        if (one->descriptor >= 0) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        free(one);
    }
}

static int is_one_of(const char *code, const char *const *codes) {
    while (*codes && strcmp(code, *codes))
        codes++;
    return *codes != NULL;
}

/* Codes after which the exposure is begun again, wherever it is to go then. */
static int passes(const char *code) {
    static const char *const codes[] = {"not-here", "not-begun", "draining", "unavailable", "internal", "stalled",
                                        "stopping", NULL};
    return is_one_of(code, codes);
}

/* Codes that say that this PAN may not send what it sends: nothing would be different another time. */
static int is_final(const char *code) {
    static const char *const codes[] = {"already-built", "bad-rows", "bad-value", "exposure-too-large", "overlap",
                                        "refused", "taken", "unknown-amplifier", "unknown-camera", "unknown-detector",
                                        "unknown-exposure", "wrong-type", NULL};
    return is_one_of(code, codes);
}

static cards *cards_of(const exposure *one, uint64_t sequence) {
    cards *at = one->cards;
    while (at && at->sequence != sequence)
        at = at->next;
    return at;
}

/* An error that is about an exposure: something goes again, all of it is begun again, or it is refused. */
static void take_exposure_error(exposure *one, const char *code, uint64_t sequence, const char *list) {
    cards *refused = cards_of(one, sequence);
    if (strcmp(code, "missing-rows") == 0) {
        one->end_sent = 0;
        one->rounds++;
        mark_list(one, list, WAITING);
    } else if (refused) {
        refused->sent = !passes(code);
    } else if (sequence == one->end_sequence && passes(code)) {
        one->end_sent = 0;
        one->end_not_before = now() + PAUSE;
    } else if (sequence != one->begun && (passes(code) || strcmp(code, "already-built") == 0)) {
        leave_node(one);
    } else if (is_final(code)) {
        one->refused = 1;
        leave_node(one);
    } else if (sequence == one->begun) {
        leave_node(one);
    }
}

static void take_error(dtspan *link, wire *one, const char *text, const char *list) {
    char code[64], message[400], hint[300], word[16];
    uint64_t sequence = 0, number = 0;
    exposure *at;
    field(text, "code", code, sizeof code);
    field(text, "message", message, sizeof message);
    field(text, "hint", hint, sizeof hint);
    field(text, "fatal", word, sizeof word);
    number_field(text, "sequence", UINT64_MAX - 1, &sequence);
    say(link, 0, "%s: %s%s%s [%s]", one->address, message, *hint ? "; " : "", hint, code);
    if (!number_field(text, "exposure", INT64_MAX, &number))
        number = sequence ? (uint64_t)one->owners[sequence % OWNERS] : 0;
    at = find(link, (int64_t)number);
    if (sequence && sequence == one->asked) {
        one->answer = ERROR;
        snprintf(link->code, sizeof link->code, "%s", code);
    } else if (at && at->wire == one) {
        take_exposure_error(at, code, sequence, list);
    }
    if (strcmp(word, "yes") == 0)
        cut(link, one, "%s [%s]", message, code);
}

/* Whether a list of lines holds exactly this line. */
static int holds_line(const char *list, const char *line) {
    size_t size = strlen(line);
    while (*list) {
        size_t length = strcspn(list, "\n");
        if (length == size && strncmp(list, line, size) == 0)
            return 1;
        list += length + (list[length] == '\n');
    }
    return 0;
}

/* The sum of an amplifier's pixels in readout order, over all parts, from `row` on. */
static uint32_t sum_of(const dtspan *link, const exposure *one, const part *like) {
    uint32_t sum = 0, row = 0;
    for (const part *at = one->parts; at;) {
        if (at->row == row && !strcmp(at->detector, like->detector) && !strcmp(at->amplifier, like->amplifier)) {
            sum = dtspan_crc32c(link, sum, at->pixels, (size_t)at->rows * at->row_bytes);
            row += at->rows;
            at = one->parts;
        } else {
            at = at->next;
        }
    }
    return sum;
}

static int is_word_of(const char *words, const char *word) {
    size_t size = strlen(word);
    while (*(words += strspn(words, " "))) {
        size_t length = strcspn(words, " ");
        if (length == size && strncmp(words, word, size) == 0)
            return 1;
        words += length;
    }
    return 0;
}

/* An exposure is saved when no more will come and everything that was handed over is in files. */
static void note_saved(exposure *one) {
    int left = !one->ended || !one->parts;
    for (const part *at = one->parts; at; at = at->next)
        left += !at->saved;
    if (!left) {
        one->status.state = DTSPAN_SAVED;
        one->wire = NULL;
    }
}

/* A SAVED is believed only if it tells the sums of our own pixels; its detectors are then done with. */
static void take_saved(dtspan *link, exposure *one, const char *text, const char *sums) {
    char detectors[BODY_CAP], line[2 * NAME_ROOM + 16];
    field(text, "detectors", detectors, sizeof detectors);
    for (part *at = one->parts; at; at = at->next) {
        if (!is_word_of(detectors, at->detector) || at->row != 0)
            continue;
        snprintf(line, sizeof line, "%s %s %08" PRIx32, at->detector, at->amplifier, sum_of(link, one, at));
        if (!holds_line(sums, line)) {
            one->refused = 1;
            say(link, 0, "the file of exposure %" PRId64 " does not hold the pixels that were sent: %s (CRC32C)",
                one->number, line);
            return;
        }
    }
    for (part *at = one->parts; at; at = at->next)
        if (is_word_of(detectors, at->detector)) {
            memset(at->marks, THERE, at->rows);
            at->saved = 1;
        }
    number_field(text, "size", UINT64_MAX, &one->status.size);
    field(text, "lfn", one->status.lfn, sizeof one->status.lfn);
    field(text, "checksum", one->status.checksum, sizeof one->status.checksum);
    note_saved(one);
}

static void take_received(exposure *one, const char *text) {
    char detector[NAME_ROOM], amplifier[NAME_ROOM], complete[8];
    uint64_t row, rows;
    if (field(text, "complete", complete, sizeof complete) && strcmp(complete, "yes") == 0) {
        if (one->status.state < DTSPAN_RECEIVED)
            one->status.state = DTSPAN_RECEIVED;
        return;
    }
    if (field(text, "detector", detector, sizeof detector) && field(text, "amplifier", amplifier, sizeof amplifier)
        && number_field(text, "row", UINT32_MAX, &row) && number_field(text, "rows", UINT32_MAX, &rows) && rows)
        mark(one, detector, amplifier, row, row + rows - 1, THERE);
}

static void take_exposure(dtspan *link, wire *from, int kind, const char *text, const char *list) {
    char reason[400];
    uint64_t number;
    exposure *one = number_field(text, "exposure", INT64_MAX, &number) ? find(link, (int64_t)number) : NULL;
    if (!one || one->status.state == DTSPAN_SAVED || (one->wire != from && kind != SAVED))
        return;
    if (kind == SAVED) {
        take_saved(link, one, text, list);
    } else if (kind == RECEIVED) {
        take_received(one, text);
    } else if (kind == ACCEPTED) {
        one->accepted = 1;
        mark_list(one, list, THERE);
    } else {
        field(text, "reason", reason, sizeof reason);
        say(link, 0, "%s is busy: %s", from->address, reason);
    }
}

/* One whole frame, its sums checked. Nothing is sent from here: the caller may be in the middle of a frame. */
static void take(dtspan *link, wire *one, int kind, const char *text, const char *list) {
    one->last_heard = now();
    switch (kind) {
    case CHALLENGE: case WELCOME: case LABELLED: case HERE:
        one->answer = kind;
        snprintf(one->answered, sizeof one->answered, "%s", text);
        break;
    case ACCEPTED: case RECEIVED: case SAVED: case BUSY:
        take_exposure(link, one, kind, text, list);
        break;
    case ERROR:
        take_error(link, one, text, list);
        break;
    case PING:
        one->pong_due = 1;
        break;
    case PONG:
        break;
    case BYE:
        cut(link, one, "the other side said goodbye");
        break;
    default:
        cut(link, one, "a frame of type %d came, which a PAN does not take", kind);
    }
}

/* Take the frame that the buffer begins with, if it is whole; return the bytes it had, 0 if not whole. */
static size_t take_one(dtspan *link, wire *one, const unsigned char *frame, size_t filled) {
    static const unsigned char start[5] = {'D', 'T', 'S', 'P', 1};
    size_t text_size, list_size, size;
    char text[BODY_CAP + 1], *list;
    if (filled < HEADER_BYTES)
        return 0;
    if (memcmp(frame, start, sizeof start) || get32(frame + 32) != dtspan_crc32c(link, 0, frame, SUMMED_BYTES)) {
        cut(link, one, "this is no builder node, or of another version");
        return 0;
    }
    text_size = get32(frame + 16);
    list_size = get32(frame + 20);
    if (text_size > BODY_CAP || list_size > LIST_CAP) {
        cut(link, one, "a frame is longer than any may be");
        return 0;
    }
    size = HEADER_BYTES + text_size + list_size;
    if (filled < size)
        return 0;
    if ((text_size && get32(frame + 24) != dtspan_crc32c(link, 0, frame + HEADER_BYTES, text_size))
        || (list_size && get32(frame + 28) != dtspan_crc32c(link, 0, frame + HEADER_BYTES + text_size, list_size))
        || (list = malloc(list_size + 1)) == NULL) {
        cut(link, one, "a frame was damaged on its way");
        return 0;
    }
    memcpy(text, frame + HEADER_BYTES, text_size);
    memcpy(list, frame + HEADER_BYTES + text_size, list_size);
    text[text_size] = list[list_size] = '\0';
    take(link, one, frame[5], text, list);
    free(list);
    return size;
}

/* Read what has come, without waiting. */
static void receive(dtspan *link, wire *one) {
    ssize_t got = recv(one->descriptor, one->frame + one->filled, sizeof one->frame - one->filled, MSG_DONTWAIT);
    size_t used = 0, size;
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
        cut(link, one, "the connection was closed%s%s", got ? ": " : "", got ? strerror(errno) : "");
        return;
    }
    one->filled += got > 0 ? (size_t)got : 0;
    while (one->descriptor >= 0 && (size = take_one(link, one, one->frame + used, one->filled - used)) > 0)
        used += size;
    memmove(one->frame, one->frame + used, one->filled - used);
    one->filled -= used;
}

/* Wait until a connection can be written (or read), and read what came meanwhile; 0 when it is lost. */
static int wait_for(dtspan *link, wire *one, short events, double until) {
    struct pollfd look;
    look.fd = one->descriptor;
    look.events = (short)(events | POLLIN);
    look.revents = 0;
    if (poll(&look, 1, milliseconds(until)) == 0)
        return now() < until;
    if (look.revents & (POLLIN | POLLHUP | POLLERR))
        receive(link, one);
    return one->descriptor >= 0;
}

/* Send all of some pieces; acknowledgements are read meanwhile, so that neither side can block the other. */
static int transmit(dtspan *link, wire *one, struct iovec *pieces, int count) {
    double until = now() + link->timeout;
    while (count && one->descriptor >= 0) {
        struct msghdr message;
        ssize_t sent;
        memset(&message, 0, sizeof message);
        message.msg_iov = pieces;
        message.msg_iovlen = (size_t)count;
        sent = sendmsg(one->descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            if (!wait_for(link, one, POLLOUT, until))
                cut(link, one, "nothing could be sent for %g s", link->timeout);
            continue;
        }
        if (sent < 0) {
            cut(link, one, "sending failed: %s", strerror(errno));
            break;
        }
        until = now() + link->timeout;
        while (count && (size_t)sent >= pieces->iov_len) {
            sent -= (ssize_t)pieces->iov_len;
            pieces++, count--;
        }
        if (count) {
            pieces->iov_base = (char *)pieces->iov_base + sent;
            pieces->iov_len -= (size_t)sent;
        }
    }
    return one->descriptor >= 0;
}

/* Send one frame; 0 when the connection is lost. */
static int send_frame(dtspan *link, wire *one, int kind, int64_t owner, const body *lines, const void *data,
                      size_t size) {
    unsigned char header[HEADER_BYTES] = {'D', 'T', 'S', 'P', 1};
    struct iovec pieces[3];
    uint64_t sequence = one->sequence++;
    size_t text_size = lines ? lines->size : 0;
    if (one->descriptor < 0)
        return 0;
    one->owners[sequence % OWNERS] = owner;
    header[5] = (unsigned char)kind;
    put32(header + 8, (uint32_t)(sequence >> 32));
    put32(header + 12, (uint32_t)sequence);
    put32(header + 16, (uint32_t)text_size);
    put32(header + 20, (uint32_t)size);
    put32(header + 24, text_size ? dtspan_crc32c(link, 0, lines->text, text_size) : 0);
    put32(header + 28, size ? dtspan_crc32c(link, 0, data, size) : 0);
    put32(header + 32, dtspan_crc32c(link, 0, header, SUMMED_BYTES));
    pieces[0].iov_base = header;
    pieces[0].iov_len = sizeof header;
    pieces[1].iov_base = lines ? (void *)(uintptr_t)lines->text : header;
    pieces[1].iov_len = text_size;
    pieces[2].iov_base = (void *)(uintptr_t)data;
    pieces[2].iov_len = size;
    one->last_sent = now();
    return transmit(link, one, pieces, size ? 3 : text_size ? 2 : 1);
}

/* Send a question and wait for its answer, which is then in one->answered; 0 on an error or a lost connection. */
static int ask(dtspan *link, wire *one, int kind, const body *lines, int answer) {
    double until = now() + link->timeout;
    one->answer = 0;
    one->asked = one->sequence;
    if (lines->broken)
        return say(link, 0, "a name or text is too long or holds a control character");
    if (!send_frame(link, one, kind, 0, lines, NULL, 0))
        return 0;
    while (one->descriptor >= 0 && one->answer == 0)
        if (!wait_for(link, one, 0, until) && one->descriptor >= 0)
            cut(link, one, "no answer within %g s", link->timeout);
    one->asked = UINT64_MAX;
    if (one->answer && one->answer != answer && one->answer != ERROR)
        cut(link, one, "an answer of type %d came where %d was expected", one->answer, answer);
    return one->answer == answer;
}

/* --- saying hello --- */

static void hex(const unsigned char *bytes, size_t size, char *text) {
    for (size_t index = 0; index < size; index++)
        snprintf(text + 2 * index, 3, "%02x", bytes[index]);
}

static int new_nonce(char nonce[65]) {
    unsigned char bytes[32];
    FILE *random = fopen("/dev/urandom", "rb");
    size_t got = random ? fread(bytes, 1, sizeof bytes, random) : 0;
    if (random)
        fclose(random);
    hex(bytes, got, nonce);
    return got == sizeof bytes;
}

static void prove(const dtspan *link, const char *role, const char *ours, const char *theirs, char proof[65]) {
    unsigned char digest[32];
    char said[400];
    int size = snprintf(said, sizeof said, "%s\n%s\n%s\n%s\n%s", role, ours, theirs, link->camera, link->pan);
    dtspan_hmac_sha256(link->secret, link->secret_size, said, (size_t)size, digest);
    hex(digest, sizeof digest, proof);
}

static int same(const char *one, const char *other) {
    unsigned char differs = strlen(one) != 64 || strlen(other) != 64;
    for (int index = 0; index < 64 && !differs; index++)
        differs = (unsigned char)(differs | (one[index] ^ other[index]));
    return !differs;
}

static int greet(dtspan *link, wire *one) {
    char ours[65], theirs[65], proof[65], expected[65];
    uint64_t block_bytes = 0, idle = 0;
    body hello = {{0}, 0, 0}, answer = {{0}, 0, 0};
    if (!new_nonce(ours))
        return say(link, 0, "/dev/urandom gives no random bytes");
    add(&hello, "camera", "%s", link->camera);
    add(&hello, "pan", "%s", link->pan);
    add(&hello, "nonce", "%s", ours);
    add(&hello, "software", "%s", link->software);
    if (!ask(link, one, HELLO, &hello, CHALLENGE))
        return 0;
    field(one->answered, "nonce", theirs, sizeof theirs);
    field(one->answered, "proof", proof, sizeof proof);
    prove(link, "node", ours, theirs, expected);
    if (!same(proof, expected))
        return say(link, 0, "%s does not know our secret", one->address);
    prove(link, "pan", ours, theirs, proof);
    add(&answer, "proof", "%s", proof);
    if (!ask(link, one, PROOF, &answer, WELCOME))
        return 0;
    if (!number_field(one->answered, "block_bytes", BLOCK_CAP, &block_bytes) || !block_bytes)
        return say(link, 0, "%s does not say how large a block may be", one->address);
    number_field(one->answered, "idle", 86400, &idle);
    one->block_bytes = (uint32_t)block_bytes;
    one->idle = idle ? (double)idle : 60.0;
    return 1;
}

/* --- finding and reaching a node --- */

static int split_address(const char *address, char *host, size_t room, const char **port) {
    const char *colon = strrchr(address, ':');
    size_t size = colon ? (size_t)(colon - address) : 0;
    if (!size || size >= room || !colon[1])
        return 0;
    if (address[0] == '[' && address[size - 1] == ']')
        address++, size -= 2;
    memcpy(host, address, size);
    host[size] = '\0';
    *port = colon + 1;
    return 1;
}

/* Connect one socket within the time; -1 with errno if it cannot be. */
static int reach(const struct addrinfo *to, double until) {
    int descriptor = socket(to->ai_family, SOCK_STREAM, 0), failure = 0, on = 1;
    socklen_t size = sizeof failure;
    struct pollfd look;
    if (descriptor < 0)
        return -1;
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    fcntl(descriptor, F_SETFL, O_NONBLOCK);
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(descriptor, to->ai_addr, to->ai_addrlen) == 0)
        return descriptor;
    look.fd = descriptor;
    look.events = POLLOUT;
    failure = errno;
    if (failure == EINPROGRESS) {
        failure = ETIMEDOUT;
        if (poll(&look, 1, milliseconds(until)) > 0)
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &failure, &size);
    }
    if (!failure)
        return descriptor;
    close(descriptor);
    errno = failure;
    return -1;
}

static int reach_address(dtspan *link, const char *address) {
    struct addrinfo hints, *found = NULL;
    char host[256];
    const char *port;
    int descriptor = -1, failure;
    if (!split_address(address, host, sizeof host, &port)) {
        say(link, 0, "%s is not host:port", address);
        return -1;
    }
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    failure = getaddrinfo(host, port, &hints, &found);
    if (failure) {
        say(link, 0, "%s: %s", address, gai_strerror(failure));
        return -1;
    }
    for (struct addrinfo *to = found; to && descriptor < 0; to = to->ai_next)
        descriptor = reach(to, now() + link->timeout);
    failure = errno;
    freeaddrinfo(found);
    if (descriptor < 0)
        say(link, 0, "%s cannot be reached: %s", address, strerror(failure));
    return descriptor;
}

/* The connection to an address: the one there is, or a new one that has said hello; NULL if there is none. */
static wire *wire_to(dtspan *link, const char *address) {
    wire *one;
    int descriptor, count = 0;
    for (one = link->wires; one; one = one->next, count++)
        if (one->descriptor >= 0 && strcmp(one->address, address) == 0)
            return one;
    descriptor = count < MOST_WIRES ? reach_address(link, address) : -1;
    one = descriptor >= 0 ? calloc(1, sizeof *one) : NULL;
    if (!one) {
        if (descriptor >= 0)
            close(descriptor);
        return NULL;
    }
    one->descriptor = descriptor;
    one->sequence = 1;
    one->asked = UINT64_MAX;
    one->last_sent = one->last_heard = now();
    snprintf(one->address, sizeof one->address, "%s", address);
    one->next = link->wires;
    link->wires = one;
    if (greet(link, one))
        return one;
    if (one->descriptor >= 0) {
        char why[sizeof link->message];
        snprintf(why, sizeof why, "%s", link->message);
        cut(link, one, "no welcome");
        say(link, 0, "%s", why);
    }
    return NULL;
}

static int used(const dtspan *link, const wire *one) {
    const exposure *at = link->exposures;
    while (at && at->wire != one)
        at = at->next;
    return at != NULL;
}

/* Say goodbye where no exposure is under way any more. */
static void leave_unused(dtspan *link) {
    for (wire *one = link->wires; one; one = one->next)
        if (one->descriptor >= 0 && !used(link, one)) {
            char kept[sizeof link->message];
            snprintf(kept, sizeof kept, "%s", link->message);
            if (send_frame(link, one, BYE, 0, NULL, NULL, 0))
                cut(link, one, "goodbye");
            say(link, 0, "%s", kept);
        }
    sweep(link);
}

/* Ask one supervisor or node for an answer; the next address in turn if it does not give one. */
static wire *ask_anyone(dtspan *link, int kind, const body *lines, int answer) {
    const char *at = link->addresses;
    char address[ADDRESS_ROOM];
    link->code[0] = '\0';
    while (*(at += strspn(at, " ,"))) {
        size_t size = strcspn(at, " ,");
        wire *one = NULL;
        snprintf(address, sizeof address, "%.*s", (int)size, at);
        at += size;
        if ((one = wire_to(link, address)) != NULL && ask(link, one, kind, lines, answer))
            return one;
    }
    return NULL;
}

/* Where an exposure is to go now; NULL if nobody tells, or nobody ever will. */
static wire *node_of(dtspan *link, exposure *at) {
    char host[256], port[16], address[ADDRESS_ROOM];
    body lines = {{0}, 0, 0};
    wire *one;
    add(&lines, "exposure", "%" PRId64, at->number);
    one = ask_anyone(link, WHERE, &lines, HERE);
    if (!one) {
        at->refused = is_final(link->code);
        return NULL;
    }
    field(one->answered, "host", host, sizeof host);
    field(one->answered, "port", port, sizeof port);
    if (!host[0])
        return one;
    snprintf(address, sizeof address, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return wire_to(link, address);
}

/* --- moving an exposure on --- */

static int begin_there(dtspan *link, exposure *one, wire *to) {
    body lines = {{0}, 0, 0};
    add(&lines, "exposure", "%" PRId64, one->number);
    add(&lines, "detectors", "%s", one->detectors);
    add(&lines, "expected", "%s", one->expected);
    add(&lines, "type", "%s", TYPE_NAMES[one->type]);
    one->wire = to;
    one->begun = to->sequence;
    one->accepted = one->end_sent = one->rounds = 0;
    one->status.connections++;
    forget_marks(one);
    return send_frame(link, to, BEGIN, one->number, &lines, NULL, 0);
}

/* Find the exposure's node and begin there; 0 if that must wait. */
static int settle(dtspan *link, exposure *one) {
    wire *to;
    if (now() < one->not_before)
        return 0;
    one->not_before = now() + PAUSE;
    to = node_of(link, one);
    return to && one->status.state < DTSPAN_SAVED && begin_there(link, one, to);
}

static int flush_cards(dtspan *link, exposure *one) {
    for (cards *at = one->cards; at && one->wire; at = at->next) {
        body lines = {{0}, 0, 0};
        if (at->sent)
            continue;
        add(&lines, "exposure", "%" PRId64, one->number);
        if (at->detector[0])
            add(&lines, "detector", "%s", at->detector);
        at->sent = 1;
        at->sequence = one->wire->sequence;
        send_frame(link, one->wire, METADATA, one->number, &lines, at->text, strlen(at->text));
    }
    return one->wire != NULL;
}

/* Send the waiting rows of one part, in frames as large as the node takes. */
static int flush_part(dtspan *link, exposure *one, part *at) {
    unsigned char *waiting = at->marks;
    while (one->wire && (waiting = memchr(waiting, WAITING, at->rows - (size_t)(waiting - at->marks))) != NULL) {
        uint32_t first = (uint32_t)(waiting - at->marks), rows = 0, most = one->wire->block_bytes / at->row_bytes;
        body lines = {{0}, 0, 0};
        if (!most)
            return say(link, DTSPAN_REFUSED, "a row of %s %s is larger than a block may be", at->detector, at->amplifier);
        while (rows < most && first + rows < at->rows && waiting[rows] == WAITING)
            rows++;
        add(&lines, "exposure", "%" PRId64, one->number);
        add(&lines, "detector", "%s", at->detector);
        add(&lines, "amplifier", "%s", at->amplifier);
        add(&lines, "row", "%" PRIu32, at->row + first);
        add(&lines, "rows", "%" PRIu32, rows);
        add(&lines, "type", "%s", TYPE_NAMES[one->type]);
        memset(waiting, SENT, rows);
        send_frame(link, one->wire, BLOCK, one->number, &lines, at->pixels + (size_t)first * at->row_bytes,
                   (size_t)rows * at->row_bytes);
        waiting += rows;
    }
    return one->wire ? DTSPAN_OK : DTSPAN_AGAIN;
}

/* Send everything that waits, and END when nothing more will come. */
static int flush(dtspan *link, exposure *one) {
    if (!flush_cards(link, one))
        return DTSPAN_AGAIN;
    for (part *at = one->parts; at; at = at->next) {
        int result = flush_part(link, one, at);
        if (result)
            return result;
    }
    if (one->ended && !one->end_sent && !any_marked(one, WAITING) && now() >= one->end_not_before) {
        body lines = {{0}, 0, 0};
        if (one->rounds > ROUNDS) {
            cut(link, one->wire, "the node misses rows again and again");
            return DTSPAN_AGAIN;
        }
        add(&lines, "exposure", "%" PRId64, one->number);
        one->end_sent = 1;
        one->end_sequence = one->wire->sequence;
        send_frame(link, one->wire, END, one->number, &lines, NULL, 0);
    }
    return one->wire ? DTSPAN_OK : DTSPAN_AGAIN;
}

/* Do for an exposure whatever can be done now. */
static int advance(dtspan *link, exposure *one) {
    if (one->status.state == DTSPAN_SAVED)
        return DTSPAN_OK;
    if (one->refused)
        return DTSPAN_REFUSED;
    if (!one->wire && !settle(link, one))
        return one->refused ? DTSPAN_REFUSED : DTSPAN_AGAIN;
    return one->accepted > 0 ? flush(link, one) : DTSPAN_AGAIN;
}

static void keep_alive(dtspan *link, wire *one) {
    double moment = now();
    if (one->pong_due && send_frame(link, one, PONG, 0, NULL, NULL, 0))
        one->pong_due = 0;
    if (one->descriptor >= 0 && moment - one->last_heard > one->idle)
        cut(link, one, "nothing was heard for %g s", one->idle);
    else if (one->descriptor >= 0 && moment - one->last_sent > one->idle / 3)
        send_frame(link, one, PING, 0, NULL, NULL, 0);
}

/* Read from all connections, waiting so long at most for the first byte. */
static void pump(dtspan *link, double until) {
    struct pollfd looks[MOST_WIRES];
    wire *whose[MOST_WIRES];
    nfds_t count = 0;
    sweep(link);
    for (wire *one = link->wires; one && count < MOST_WIRES; one = one->next, count++) {
        looks[count].fd = one->descriptor;
        looks[count].events = POLLIN;
        looks[count].revents = 0;
        whose[count] = one;
    }
    if (poll(looks, count, milliseconds(until)) > 0)
        for (nfds_t index = 0; index < count; index++)
            if (looks[index].revents && whose[index]->descriptor >= 0)
                receive(link, whose[index]);
    for (nfds_t index = 0; index < count; index++)
        if (whose[index]->descriptor >= 0)
            keep_alive(link, whose[index]);
    sweep(link);
}

/* --- what the camera calls --- */

static int read_secret(dtspan *link, const char *path, char *message, size_t room) {
    struct stat about;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &about)) {
        snprintf(message, room, "the secret file %s cannot be read: %s", path, strerror(errno));
        if (file)
            fclose(file);
        return 0;
    }
    link->secret_size = fread(link->secret, 1, sizeof link->secret, file);
    fclose(file);
    while (link->secret_size && strchr("\r\n", link->secret[link->secret_size - 1]))
        link->secret_size--;
    if (!S_ISREG(about.st_mode) || about.st_mode & 0177)
        snprintf(message, room, "the secret file %s must be a file of mode 0600", path);
    else if (link->secret_size < 16 || link->secret_size == sizeof link->secret)
        snprintf(message, room, "the secret in %s is too short or too long", path);
    else
        return 1;
    return 0;
}

static int is_name(const char *text) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    size_t size = text ? strlen(text) : 0;
    return size > 0 && size < NAME_ROOM && strspn(text, letters) == size && !strchr("_.-", text[0]);
}

dtspan *dtspan_open(const dtspan_options *options, char *message, size_t room) {
    dtspan *link = calloc(1, sizeof *link);
    snprintf(message, room, "%s", "no memory");
    if (!link)
        return NULL;
    make_table(link->table);
    link->timeout = options->timeout > 0 ? options->timeout : 30.0;
    link->addresses = copied(options->addresses ? options->addresses : "");
    link->camera = copied(options->camera ? options->camera : "");
    link->pan = copied(options->pan ? options->pan : "");
    link->software = copied(options->software ? options->software : "dtspan");
    if (link->addresses && link->camera && link->pan && link->software) {
        if (!is_name(link->camera) || !is_name(link->pan) || !link->addresses[strspn(link->addresses, " ,")])
            snprintf(message, room, "give an address, and names of letters, digits and _ . - for camera and pan");
        else if (read_secret(link, options->secret_file ? options->secret_file : "", message, room))
            return link;
    }
    dtspan_close(link);
    return NULL;
}

int dtspan_label(dtspan *link, const char *program, int64_t *exposure_number, char *label, size_t room) {
    body lines = {{0}, 0, 0};
    uint64_t number;
    wire *one;
    add(&lines, "count", "1");
    add(&lines, "program", "%s", program ? program : "");
    one = ask_anyone(link, LABEL, &lines, LABELLED);
    if (!one)
        return DTSPAN_AGAIN;
    if (!number_field(one->answered, "exposure", INT64_MAX, &number))
        return say(link, DTSPAN_REFUSED, "%s gives a label without a number", one->address);
    *exposure_number = (int64_t)number;
    field(one->answered, "label", label, room);
    leave_unused(link);
    return DTSPAN_OK;
}

static void free_exposure(exposure *one) {
    while (one->parts) {
        part *next = one->parts->next;
        free(one->parts->marks);
        free(one->parts);
        one->parts = next;
    }
    while (one->cards) {
        cards *next = one->cards->next;
        free(one->cards);
        one->cards = next;
    }
    free(one->detectors);
    free(one->expected);
    free(one);
}

int dtspan_begin(dtspan *link, int64_t number, const char *detectors, const char *expected, dtspan_type type) {
    exposure *one;
    if (number < 1 || !detectors || !*detectors || strlen(detectors) + (expected ? strlen(expected) : 0) > BODY_CAP - 256
        || (unsigned)type >= sizeof TYPE_BYTES / sizeof *TYPE_BYTES)
        return say(link, DTSPAN_USAGE, "an exposure needs a number above 0, its detectors and a type of pixels");
    if (find(link, number))
        return say(link, DTSPAN_USAGE, "exposure %" PRId64 " has been begun before", number);
    one = calloc(1, sizeof *one);
    if (!one || !(one->detectors = copied(detectors)) || !(one->expected = copied(expected ? expected : "*"))) {
        if (one)
            free_exposure(one);
        return say(link, DTSPAN_MEMORY, "no memory for another exposure");
    }
    one->number = number;
    one->type = type;
    one->next = link->exposures;
    link->exposures = one;
    for (double until = now() + link->timeout; one->accepted <= 0 && one->status.state < DTSPAN_SAVED && now() < until;) {
        int result = advance(link, one);
        if (result < 0)
            return result;
        if (!one->wire)
            break;
        pump(link, now() + PAUSE);
    }
    leave_unused(link);
    return one->accepted > 0 || one->status.state == DTSPAN_SAVED ? DTSPAN_OK : DTSPAN_AGAIN;
}

static exposure *open_exposure(dtspan *link, int64_t number, const char *detector) {
    exposure *one = find(link, number);
    if (!one)
        say(link, 0, "exposure %" PRId64 " has not been begun", number);
    else if (one->ended)
        say(link, 0, "exposure %" PRId64 " has ended", number);
    else if (detector && !is_name(detector))
        say(link, 0, "\"%.40s\" is not the name of a detector", detector);
    else
        return one;
    return NULL;
}

int dtspan_metadata(dtspan *link, int64_t number, const char *detector, const char *text) {
    exposure *one = open_exposure(link, number, detector);
    size_t size = text ? strlen(text) : 0;
    cards *made, **at;
    if (!one)
        return DTSPAN_USAGE;
    if (!size || size > METADATA_CAP)
        return say(link, DTSPAN_USAGE, "metadata of %zu bytes: 1 to %d are taken at once", size, METADATA_CAP);
    made = calloc(1, sizeof *made + size + 1);
    if (!made)
        return say(link, DTSPAN_MEMORY, "no memory for metadata");
    snprintf(made->detector, sizeof made->detector, "%s", detector ? detector : "");
    memcpy(made->text, text, size);
    for (at = &one->cards; *at; at = &(*at)->next)
        ;
    *at = made;
    return advance(link, one);
}

static int overlaps(const exposure *one, const char *detector, const char *amplifier, uint32_t row, uint32_t rows) {
    for (const part *at = one->parts; at; at = at->next)
        if (!strcmp(at->detector, detector) && !strcmp(at->amplifier, amplifier) && row < at->row + at->rows
            && at->row < row + rows)
            return 1;
    return 0;
}

int dtspan_block(dtspan *link, int64_t number, const char *detector, const char *amplifier, uint32_t row,
                 uint32_t rows, uint32_t columns, const void *pixels) {
    exposure *one = open_exposure(link, number, detector ? detector : "");
    part *made, **at;
    if (!one)
        return DTSPAN_USAGE;
    if (!is_name(amplifier) || !pixels || !rows || !columns || rows > UINT32_MAX - row || columns > BLOCK_CAP / 4)
        return say(link, DTSPAN_USAGE, "a block needs an amplifier, rows, columns and pixels");
    if (overlaps(one, detector, amplifier, row, rows))
        return say(link, DTSPAN_USAGE, "rows from %" PRIu32 " of %s %s were handed over before", row, detector, amplifier);
    made = calloc(1, sizeof *made);
    if (!made || !(made->marks = calloc(rows, 1))) {
        free(made);
        return say(link, DTSPAN_MEMORY, "no memory for another block");
    }
    snprintf(made->detector, sizeof made->detector, "%s", detector);
    snprintf(made->amplifier, sizeof made->amplifier, "%s", amplifier);
    made->row = row;
    made->rows = rows;
    made->row_bytes = columns * TYPE_BYTES[one->type];
    made->pixels = pixels;
    for (at = &one->parts; *at; at = &(*at)->next)
        ;
    *at = made;
    pump(link, now());
    return advance(link, one);
}

int dtspan_end(dtspan *link, int64_t number) {
    exposure *one = open_exposure(link, number, NULL);
    if (!one)
        return DTSPAN_USAGE;
    one->ended = 1;
    note_saved(one);
    pump(link, now());
    return advance(link, one);
}

int dtspan_wait(dtspan *link, int64_t number, int state, double seconds) {
    exposure *one = find(link, number);
    double until = now() + seconds;
    int last = 0;
    if (!one)
        return say(link, DTSPAN_USAGE, "exposure %" PRId64 " has not been begun", number);
    while (one->status.state < state) {
        double moment;
        for (exposure *at = link->exposures; at; at = at->next)
            advance(link, at);
        if (one->refused)
            return DTSPAN_REFUSED;
        if (last)
            return DTSPAN_AGAIN;
        moment = now();
        pump(link, until < moment + PAUSE ? until : moment + PAUSE);
        last = now() >= until;
    }
    leave_unused(link);
    return DTSPAN_OK;
}

int dtspan_poll(dtspan *link, double seconds) {
    int result = DTSPAN_OK;
    pump(link, now() + seconds);
    for (exposure *at = link->exposures; at; at = at->next)
        if (at->status.state < DTSPAN_SAVED && advance(link, at) != DTSPAN_OK)
            result = DTSPAN_AGAIN;
    return result;
}

int dtspan_resend(dtspan *link, int64_t number) {
    exposure *one = find(link, number);
    if (!one)
        return say(link, DTSPAN_USAGE, "exposure %" PRId64 " has not been begun", number);
    if (one->wire)
        cut(link, one->wire, "left, to send exposure %" PRId64 " again", number);
    sweep(link);
    one->accepted = one->end_sent = one->refused = 0;
    one->not_before = 0;
    return advance(link, one);
}

int dtspan_get_status(const dtspan *link, int64_t number, dtspan_status *status) {
    const exposure *one = find(link, number);
    if (!one)
        return DTSPAN_USAGE;
    *status = one->status;
    status->rows = status->rows_received = 0;
    for (const part *at = one->parts; at; at = at->next) {
        status->rows += at->rows;
        for (uint32_t row = 0; row < at->rows; row++)
            status->rows_received += at->marks[row] == THERE;
    }
    return DTSPAN_OK;
}

int dtspan_forget(dtspan *link, int64_t number) {
    for (exposure **at = &link->exposures; *at; at = &(*at)->next)
        if ((*at)->number == number) {
            exposure *one = *at;
            *at = one->next;
            free_exposure(one);
            leave_unused(link);
            return DTSPAN_OK;
        }
    return say(link, DTSPAN_USAGE, "exposure %" PRId64 " has not been begun", number);
}

const char *dtspan_error(const dtspan *link) {
    return link->message;
}

void dtspan_close(dtspan *link) {
    if (!link)
        return;
    while (link->exposures) {
        exposure *next = link->exposures->next;
        free_exposure(link->exposures);
        link->exposures = next;
    }
    leave_unused(link);
    free(link->addresses);
    free(link->camera);
    free(link->pan);
    free(link->software);
    memset(link->secret, 0, sizeof link->secret);
    free(link);
}
