/*
 * dtspan: a camera's own code sends its pixels to the image builder. C99 and POSIX sockets, no other dependency.
 *
 *     dtspan *link = dtspan_open(&options, message, sizeof message);
 *     dtspan_begin(link, 42, "S1 N1", "*", DTSPAN_UINT16);
 *     dtspan_metadata(link, 42, NULL, "FILTER='r'\nEXPTIME=90.0 / seconds\n");
 *     dtspan_block(link, 42, "S1", "A", 0, 4146, 1080, pixels);        (and so for each amplifier, in any portions)
 *     dtspan_end(link, 42);
 *     while (dtspan_wait(link, 42, DTSPAN_SAVED, 60.0) == DTSPAN_AGAIN) { }     (only now may `pixels` be reused)
 *     dtspan_close(link);
 *
 * The library keeps no copy: the memory that dtspan_block() was given stays untouched by its owner until the exposure
 * is SAVED, or given up by dtspan_forget(). When a connection or a builder dies, the next call asks where to go, and
 * sends again what is missing there. One handle belongs to one thread at a time; handles do not share anything.
 */
#ifndef DTSPAN_H
#define DTSPAN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the functions return: 0 done, above 0 kept but not there yet, below 0 refused; dtspan_error() says why. */
enum {
    DTSPAN_OK = 0,
    DTSPAN_AGAIN = 1,     /* time is up or nobody answers; all is kept, and goes on with the next call */
    DTSPAN_USAGE = -1,    /* the call is wrong: no such exposure, overlapping rows, a bad name */
    DTSPAN_REFUSED = -2,  /* the builder refuses this exposure for good */
    DTSPAN_SECRET = -3,   /* the secret cannot be read, or the other side does not know it */
    DTSPAN_MEMORY = -4
};

/* How far an exposure is. */
enum { DTSPAN_KEPT = 0, DTSPAN_RECEIVED = 1, DTSPAN_SAVED = 2 };

typedef enum { DTSPAN_UINT16, DTSPAN_INT16, DTSPAN_UINT32, DTSPAN_INT32, DTSPAN_FLOAT32 } dtspan_type;

typedef struct {
    const char *addresses;   /* supervisors or nodes, "host:port host:port"; an IPv6 host in brackets */
    const char *camera;
    const char *pan;         /* this computer's name, as the builder's configuration allows it */
    const char *secret_file; /* mode 0600 or 0400 */
    const char *software;    /* for the builder's log; may be NULL */
    double timeout;          /* seconds that one call may wait for an answer; 0 means 30 */
} dtspan_options;

typedef struct {
    int state;               /* DTSPAN_KEPT, DTSPAN_RECEIVED or DTSPAN_SAVED */
    uint64_t rows, rows_received; /* rows of all amplifiers: handed over, and acknowledged */
    uint64_t connections;    /* how often the exposure was begun at a node */
    uint64_t size;           /* of the file, in bytes, once SAVED */
    char lfn[1024], checksum[160];
} dtspan_status;

typedef struct dtspan dtspan;

/* Make a handle; no connection yet. NULL on failure, with a sentence in `message`. */
dtspan *dtspan_open(const dtspan_options *options, char *message, size_t room);

/* Take the next exposure number and data label from the database, through a supervisor or node. */
int dtspan_label(dtspan *link, const char *program, int64_t *exposure, char *label, size_t room);

/* Begin an exposure: this PAN sends `detectors` ("S1 S2"), and `expected` lists what the whole file holds ("*": all). */
int dtspan_begin(dtspan *link, int64_t exposure, const char *detectors, const char *expected, dtspan_type type);

/* Header cards of the exposure, or of one detector: lines "KEYWORD=value / comment". At any time before dtspan_end(). */
int dtspan_metadata(dtspan *link, int64_t exposure, const char *detector, const char *cards);

/* `rows` rows of `columns` pixels from row `row` on, in readout order and little-endian. `pixels` stays the caller's. */
int dtspan_block(dtspan *link, int64_t exposure, const char *detector, const char *amplifier, uint32_t row,
                 uint32_t rows, uint32_t columns, const void *pixels);

/* No more blocks will come. */
int dtspan_end(dtspan *link, int64_t exposure);

/* Send, receive, reconnect and send again until the exposure is at least so far, for so many seconds (0: one look). */
int dtspan_wait(dtspan *link, int64_t exposure, int state, double seconds);

/* Read acknowledgements that have come, for all exposures, and answer idle time-outs; waits so many seconds at most. */
int dtspan_poll(dtspan *link, double seconds);

/* Leave the present node and begin again where the supervisor says; only what is missing there is sent. */
int dtspan_resend(dtspan *link, int64_t exposure);

/* How far an exposure is. */
int dtspan_get_status(const dtspan *link, int64_t exposure, dtspan_status *status);

/* Give an exposure up, saved or not: its pixels may be reused. */
int dtspan_forget(dtspan *link, int64_t exposure);

/* The last thing that went wrong, in words; it stays until the next one. */
const char *dtspan_error(const dtspan *link);

/* Say goodbye and free the handle. What is not SAVED is no longer kept. */
void dtspan_close(dtspan *link);

/* The sums that the protocol uses; `start` is 0, or the sum so far. */
uint32_t dtspan_crc32c(const dtspan *link, uint32_t start, const void *data, size_t size);
void dtspan_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size, unsigned char digest[32]);

#ifdef __cplusplus
}
#endif
#endif
