/*
 * An exposure of the camera `duo`, sent by one PAN: the shortest program that does everything right.
 *
 *     example ADDRESS SECRET_FILE [EXPOSURE]
 *
 * Both detectors have two amplifiers of 328 rows × 114 columns. Each pixel of this picture is
 * 1000 + 10000 × (0, 1, 2, 3 for S1 A, S1 B, N1 A, N1 B) + (row × 31 + column × 7) modulo 5000.
 */
#include "dtspan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 328, COLUMNS = 114, AMPLIFIERS = 4, BLOCK_ROWS = 64 };

static const char *const DETECTORS[AMPLIFIERS] = {"S1", "S1", "N1", "N1"};
static const char *const NAMES[AMPLIFIERS] = {"A", "B", "A", "B"};

static uint16_t pixels[AMPLIFIERS][ROWS][COLUMNS];

static void expose(void) {
    for (int amplifier = 0; amplifier < AMPLIFIERS; amplifier++)
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < COLUMNS; column++)
                pixels[amplifier][row][column] = (uint16_t)(1000 + 10000 * amplifier + (row * 31 + column * 7) % 5000);
}

/* Hand over the picture as it is read out: all amplifiers at once, some rows at a time. */
static int read_out(dtspan *pan, int64_t exposure) {
    for (uint32_t row = 0; row < ROWS; row += BLOCK_ROWS) {
        uint32_t rows = ROWS - row < BLOCK_ROWS ? ROWS - row : BLOCK_ROWS;
        for (int at = 0; at < AMPLIFIERS; at++)
            if (dtspan_block(pan, exposure, DETECTORS[at], NAMES[at], row, rows, COLUMNS, pixels[at][row]) < 0)
                return 0;
    }
    return dtspan_end(pan, exposure) >= 0;
}

/* Above 0 means: kept, and sent as soon as a builder answers. Only what is below 0 is an error. */
static int send_exposure(dtspan *pan, int64_t exposure) {
    if (dtspan_begin(pan, exposure, "S1 N1", "*", DTSPAN_UINT16) < 0)
        return 0;
    if (dtspan_metadata(pan, exposure, NULL,
                        "DATE-OBS='2026-11-20T02:00:00.0'\nOBSTYPE=object\nFILTER=r\nEXPTIME=30.0 / seconds\n") < 0)
        return 0;
    return read_out(pan, exposure);
}

static int wait_until_saved(dtspan *pan, int64_t exposure) {
    for (int minutes = 0; minutes < 10; minutes++) {
        int result = dtspan_wait(pan, exposure, DTSPAN_SAVED, 60.0);
        if (result != DTSPAN_AGAIN)
            return result == DTSPAN_OK;
        fprintf(stderr, "exposure %" PRId64 " is not saved yet: %s\n", exposure, dtspan_error(pan));
    }
    return 0;
}

int main(int count, char **words) {
    char message[512], label[128] = "";
    dtspan_options options = {0};
    dtspan_status status;
    int64_t exposure = 0;
    dtspan *pan;
    int saved;
    if (count < 3) {
        fprintf(stderr, "usage: %s ADDRESS SECRET_FILE [EXPOSURE]\n", words[0]);
        return 2;
    }
    options.addresses = words[1];
    options.secret_file = words[2];
    options.camera = "duo";
    options.pan = "pan1";
    options.software = "dtspan example";
    pan = dtspan_open(&options, message, sizeof message);
    if (!pan) {
        fprintf(stderr, "error: %s\n", message);
        return 1;
    }
    if (count > 3)
        exposure = strtoll(words[3], NULL, 10);
    else if (dtspan_label(pan, "example", &exposure, label, sizeof label) != DTSPAN_OK)
        exposure = 0;
    expose();
    saved = exposure > 0 && send_exposure(pan, exposure) && wait_until_saved(pan, exposure);
    if (saved && dtspan_get_status(pan, exposure, &status) == DTSPAN_OK)
        printf("%" PRId64 " %s %" PRIu64 " %s\n", exposure, status.lfn, status.size, status.checksum);
    else
        fprintf(stderr, "error: %s\n", dtspan_error(pan));
    dtspan_close(pan);
    return saved ? 0 : 1;
}
