/* A long-distance line between two TUN devices, for kernels without a network emulator of their own.
 *
 * usage: wan DEVICE_A DEVICE_B
 *
 * Makes both devices; the caller moves each into a network namespace. Commands come on standard input, one a line,
 * and each is answered with one line; the end of the input ends the program, and with it the devices.
 *
 *   line RATE DELAY LOSS QUEUE SEED   bits a second (0: any), nanoseconds one way, probability that a segment is
 *                                     lost, bytes the router before the line holds, seed of the losses.
 *                                     Drops what is on its way; sets the counters to zero.
 *   counters                          what happened since, as JSON, one object for each direction
 *
 * Each direction is a router with a tail-drop queue, then a line that takes the time of every segment's bytes,
 * then random loss, then the delay. A segment that is lost has used the line; one that finds the queue full has not.
 *
 * The kernel hands over TCP data in packets of up to 64 KiB that stand for many segments (TSO). Each segment is
 * treated by itself; what remains of a packet is passed on in the longest runs of neighbouring segments.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <math.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    PREFIX = sizeof(struct virtio_net_hdr), /* before each packet: what the kernel left undone in it */
    LARGEST = 65535 + PREFIX,
    HEADERS = 60 + 60,  /* longest IPv4 and TCP header */
    FRAMING = 38,       /* Ethernet's preamble, header, check sequence and gap: bytes that take time and carry nothing */
    PLACES = 1 << 18,   /* runs on their way in one direction; a power of two */
    BATCH = 64,
    LATE = 1000000,     /* ns: a run that leaves so much after its time is counted as late */
};

/* A packet as it was read, shared by the runs that are left of it. */
struct packet {
    unsigned users;
    unsigned length;  /* with the prefix */
    unsigned headers; /* IP and TCP header; 0: a packet that is not to be taken apart */
    unsigned segment; /* bytes of payload in each segment but the last */
    unsigned segments;
    unsigned char bytes[];
};

/* Neighbouring segments of a packet that arrive together. */
struct run {
    int64_t due;
    struct packet *packet;
    unsigned first, count;
};

struct direction {
    int in, out;
    double ns_per_byte;
    int64_t delay, queue, free_at; /* free_at: when the line has sent all that it was given */
    double loss;
    uint64_t random, until_loss; /* until_loss: segments that pass before the next one is lost */
    struct run *runs;
    unsigned head, tail;
    uint64_t packets, segments, bytes, lost, overflowed, refused, late, delivered;
    int64_t deepest;
};

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int open_device(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (device < 0) fail("/dev/net/tun");
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (ioctl(device, TUNSETIFF, &request) < 0) fail(name);
    if (ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0) fail("segmentation offload");
    return device;
}

/* splitmix64 */
static double uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Losing each segment with the same probability leaves gaps with a geometric distribution: one draw for each loss. */
static void draw_loss(struct direction *d) {
    d->until_loss = d->loss > 0 ? (uint64_t)(log1p(-uniform(&d->random)) / log1p(-d->loss)) : UINT64_MAX;
}

static unsigned load16(const unsigned char *at) { return at[0] << 8 | at[1]; }
static void store16(unsigned char *at, unsigned value) { at[0] = value >> 8; at[1] = value; }

static uint32_t sum16(uint32_t sum, const unsigned char *at, unsigned length) {
    for (unsigned i = 0; i < length; i += 2) sum += load16(at + i);
    return sum;
}

static unsigned fold(uint32_t sum) {
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* Find out whether a packet stands for several segments, and where they lie. */
static void dissect(struct packet *p) {
    const struct virtio_net_hdr *prefix = (const void *)p->bytes;
    const unsigned char *ip = p->bytes + PREFIX;
    unsigned room = p->length - PREFIX;
    p->headers = 0;
    p->segments = 1;
    if ((prefix->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) != VIRTIO_NET_HDR_GSO_TCPV4 || !prefix->gso_size) return;
    if (room < 40 || ip[0] >> 4 != 4) return;
    unsigned ip_header = (ip[0] & 15) * 4;
    if (ip_header < 20 || room < ip_header + 20) return;
    unsigned headers = ip_header + (ip[ip_header + 12] >> 4) * 4;
    if (headers < ip_header + 20 || room <= headers) return;
    p->headers = headers;
    p->segment = prefix->gso_size;
    p->segments = (room - headers + p->segment - 1) / p->segment;
}

static unsigned payload_of(const struct packet *p, unsigned first, unsigned count) {
    unsigned all = p->length - PREFIX - p->headers, end = (first + count) * p->segment;
    return (end < all ? end : all) - first * p->segment;
}

static void put_run(struct direction *d, struct packet *p, unsigned first, unsigned count, int64_t ends) {
    if (!count) return;
    d->runs[d->tail++ % PLACES] = (struct run){.due = ends + d->delay, .packet = p, .first = first, .count = count};
    p->users++;
}

/* Whether a segment gets through: not where the queue is full, and not where the line loses it. */
static int passes(struct direction *d, int64_t at, unsigned bytes) {
    int64_t waiting = d->ns_per_byte > 0 ? (int64_t)((d->free_at - at) / d->ns_per_byte) : 0;
    d->segments++;
    if (waiting > d->deepest) d->deepest = waiting;
    if (waiting + bytes > d->queue) {
        d->overflowed++;
        return 0;
    }
    d->free_at += (int64_t)((bytes + FRAMING) * d->ns_per_byte);
    if (d->until_loss--) {
        d->bytes += bytes;
        return 1;
    }
    d->lost++;
    draw_loss(d);
    return 0;
}

/* Send the segments of a packet over the line, one after the other. */
static void carry(struct direction *d, struct packet *p) {
    int64_t at = now();
    unsigned first = 0;
    if (d->free_at < at) d->free_at = at;
    d->packets++;
    for (unsigned i = 0; i < p->segments; i++) {
        int64_t ends = d->free_at;
        if (passes(d, at, p->headers ? p->headers + payload_of(p, i, 1) : p->length - PREFIX)) continue;
        put_run(d, p, first, i - first, ends);
        first = i + 1;
    }
    put_run(d, p, first, p->segments - first, d->free_at);
}

static void release(struct packet *p) {
    if (!p->users || !--p->users) free(p);
}

/* Write a run as a packet of its own: headers made for it, payload straight from the packet it was part of. */
static ssize_t write_run(int out, const struct run *run) {
    struct packet *p = run->packet;
    if (run->count == p->segments) return write(out, p->bytes, p->length);
    unsigned char made[PREFIX + HEADERS];
    unsigned payload = payload_of(p, run->first, run->count), skipped = run->first * p->segment;
    memcpy(made, p->bytes, PREFIX + p->headers);
    struct virtio_net_hdr *prefix = (void *)made;
    unsigned char *ip = made + PREFIX, *tcp = ip + (ip[0] & 15) * 4;
    unsigned ip_header = tcp - ip, length = p->headers + payload;
    store16(ip + 2, length);
    store16(ip + 4, load16(ip + 4) + run->first);
    store16(ip + 10, 0);
    store16(ip + 10, ~fold(sum16(0, ip, ip_header)));
    uint32_t sequence = ((uint32_t)load16(tcp + 4) << 16 | load16(tcp + 6)) + skipped;
    store16(tcp + 4, sequence >> 16);
    store16(tcp + 6, sequence);
    if (run->first + run->count < p->segments) tcp[13] &= ~(0x01 | 0x08); /* FIN and PSH belong to the last segment, */
    if (run->first) tcp[13] &= ~0x80;                                     /* CWR to the first */
    /* The sum over the pseudo header; the receiving kernel takes the rest for granted, as from a card that checks. */
    store16(tcp + 16, fold(sum16(ip[9] + length - ip_header, ip + 12, 8)));
    prefix->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    prefix->hdr_len = p->headers;
    prefix->csum_start = ip_header;
    prefix->csum_offset = 16;
    if (run->count == 1) prefix->gso_type = VIRTIO_NET_HDR_GSO_NONE, prefix->gso_size = 0;
    struct iovec parts[] = {{made, PREFIX + p->headers}, {p->bytes + PREFIX + p->headers + skipped, payload}};
    return writev(out, parts, 2);
}

static int deliver(struct direction *d) {
    int done = 0;
    int64_t at = now();
    while (d->head != d->tail && done < BATCH) {
        struct run *run = &d->runs[d->head % PLACES];
        if (run->due > at) break;
        if (at - run->due > LATE) d->late++;
        if (write_run(d->out, run) < 0) d->refused++;
        release(run->packet);
        d->head++;
        d->delivered++;
        done++;
    }
    return done;
}

static int collect(struct direction *d) {
    static unsigned char scratch[LARGEST];
    int done = 0;
    /* A packet gives as many runs as it has segments at most, 65,535 for the smallest ones. */
    while (done < BATCH && d->tail - d->head < PLACES - 65536) {
        ssize_t length = read(d->in, scratch, sizeof scratch);
        if (length <= PREFIX) break;
        struct packet *p = malloc(sizeof *p + length);
        if (!p) fail("memory");
        p->users = 0;
        p->length = length;
        memcpy(p->bytes, scratch, length);
        dissect(p);
        carry(d, p);
        if (!p->users) free(p);
        done++;
    }
    return done;
}

static void set_line(struct direction *d, const char *text, uint64_t salt) {
    double rate, loss;
    long long delay, queue;
    unsigned long long seed;
    if (sscanf(text, "line %lf %lld %lf %lld %llu", &rate, &delay, &loss, &queue, &seed) != 5) {
        fprintf(stderr, "not a line: %s", text);
        exit(2);
    }
    while (d->head != d->tail) release(d->runs[d->head++ % PLACES].packet);
    *d = (struct direction){.in = d->in, .out = d->out, .runs = d->runs, .delay = delay, .loss = loss, .queue = queue};
    d->ns_per_byte = rate > 0 ? 8e9 / rate : 0;
    d->random = seed * 2 + salt;
    draw_loss(d);
}

static void print_counters(const struct direction *d, const char *end) {
    printf("{\"packets\": %lu, \"segments\": %lu, \"bytes\": %lu, \"lost\": %lu, \"overflowed\": %lu, \"refused\": %lu, "
           "\"runs\": %lu, \"late\": %lu, \"deepest\": %ld}%s",
           d->packets, d->segments, d->bytes, d->lost, d->overflowed, d->refused, d->delivered, d->late, d->deepest, end);
}

/* Do what the commands say that have come; 0 at the end of the input. */
static int obey(struct direction *both) {
    static char text[4096];
    static size_t filled;
    ssize_t count = read(STDIN_FILENO, text + filled, sizeof text - 1 - filled);
    if (count <= 0) return 0;
    filled += count;
    text[filled] = 0;
    for (char *end; (end = strchr(text, '\n'));) {
        *end++ = 0;
        if (!strcmp(text, "counters")) {
            printf("[");
            print_counters(&both[0], ", ");
            print_counters(&both[1], "]\n");
        } else {
            set_line(&both[0], text, 0);
            set_line(&both[1], text, 1);
            printf("{}\n");
        }
        fflush(stdout);
        filled -= end - text;
        memmove(text, end, filled + 1);
    }
    return 1;
}

static struct timespec until_due(const struct direction *both) {
    int64_t wait = 1000000000;
    for (int i = 0; i < 2; i++) {
        if (both[i].head == both[i].tail) continue;
        int64_t left = both[i].runs[both[i].head % PLACES].due - now();
        if (left < wait) wait = left < 0 ? 0 : left;
    }
    return (struct timespec){.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: wan DEVICE_A DEVICE_B\n");
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1);
    int a = open_device(argv[1]), b = open_device(argv[2]);
    struct direction both[2] = {{.in = a, .out = b}, {.in = b, .out = a}};
    for (int i = 0; i < 2; i++) {
        both[i].runs = calloc(PLACES, sizeof *both[i].runs);
        if (!both[i].runs) fail("memory");
        set_line(&both[i], "line 0 0 0 1000000000 1", i);
    }
    struct pollfd sources[3] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    for (;;) {
        int busy = 0;
        for (int i = 0; i < 2; i++) busy += deliver(&both[i]) + collect(&both[i]);
        struct timespec wait = busy ? (struct timespec){0, 0} : until_due(both);
        if (ppoll(sources, 3, &wait, NULL) < 0 && errno != EINTR) fail("poll");
        if (sources[2].revents && !obey(both)) return 0;
    }
}
