/* Does what it is told on standard input, one call a line, and answers with the call's result and the last error. */
#include "dtspan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 328, COLUMNS = 114 };

static uint16_t pixels[2][2][ROWS][COLUMNS];

static void expose(int64_t exposure) {
    for (int detector = 0; detector < 2; detector++)
        for (int amplifier = 0; amplifier < 2; amplifier++)
            for (int row = 0; row < ROWS; row++)
                for (int column = 0; column < COLUMNS; column++)
                    pixels[detector][amplifier][row][column] =
                        (uint16_t)(exposure * 977 + detector * 20011 + amplifier * 7001 + row * 31 + column * 7);
}

static int call(dtspan *pan, const char *line) {
    char verb[20], detector[40], amplifier[40];
    int64_t exposure = 0;
    unsigned row, rows;
    double seconds = 0;
    int state;
    if (sscanf(line, "%19s %" SCNd64, verb, &exposure) < 2)
        return -99;
    if (strcmp(verb, "begin") == 0) {
        expose(exposure);
        return dtspan_begin(pan, exposure, strchr(strchr(line, ' ') + 1, ' ') + 1, NULL, DTSPAN_UINT16);
    }
    if (sscanf(line, "block %" SCNd64 " %39s %39s %u %u", &exposure, detector, amplifier, &row, &rows) == 5)
        return dtspan_block(pan, exposure, detector, amplifier, row, rows, COLUMNS,
                            pixels[detector[0] == 'N'][amplifier[0] == 'B'][row % ROWS]);
    if (strcmp(verb, "cards") == 0)
        return dtspan_metadata(pan, exposure, NULL, "FILTER='r'\nEXPTIME=1.5\n");
    if (strcmp(verb, "end") == 0)
        return dtspan_end(pan, exposure);
    if (strcmp(verb, "resend") == 0)
        return dtspan_resend(pan, exposure);
    if (strcmp(verb, "forget") == 0)
        return dtspan_forget(pan, exposure);
    if (sscanf(line, "wait %" SCNd64 " %d %lf", &exposure, &state, &seconds) == 3)
        return dtspan_wait(pan, exposure, state, seconds);
    return -99;
}

static void answer(const dtspan *pan, int64_t exposure, int result) {
    dtspan_status status = {0};
    if (dtspan_get_status(pan, exposure, &status))
        status.state = -1;
    printf("%d\t%d\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%s\t%" PRIu64 "\t%s\n", result, status.state, status.rows,
           status.rows_received, status.connections, status.lfn, status.size, dtspan_error(pan));
    fflush(stdout);
}

static void print_sums(const dtspan *pan) {
    unsigned char digest[32];
    dtspan_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, digest);
    printf("%08" PRIx32 " ", dtspan_crc32c(pan, 0, "123456789", 9));
    for (int index = 0; index < 32; index++)
        printf("%02x", digest[index]);
    printf("\n");
    fflush(stdout);
}

int main(int count, char **words) {
    char message[512], line[512];
    dtspan_options options = {0};
    dtspan *pan;
    if (count < 4)
        return 2;
    options.addresses = words[1];
    options.secret_file = words[2];
    options.camera = "duo";
    options.pan = words[3];
    options.timeout = 10;
    pan = dtspan_open(&options, message, sizeof message);
    if (!pan) {
        printf("%s\n", message);
        return 1;
    }
    print_sums(pan);
    while (fgets(line, sizeof line, stdin)) {
        const char *blank = strchr(line, ' ');
        line[strcspn(line, "\n")] = '\0';
        answer(pan, blank ? strtoll(blank, NULL, 10) : 0, call(pan, line));
    }
    dtspan_close(pan);
    return 0;
}
