// See ggml_grid_tables.c.
#ifndef CK_GGML_GRIDS_H
#define CK_GGML_GRIDS_H

#include <stdint.h>

extern const uint16_t ck_grid_iq2_xxs[256], ck_grid_iq2_xs[512], ck_grid_iq2_s[1024];
extern const uint16_t ck_grid_iq1[2048];
extern const uint16_t ck_grid_iq3_xxs[256], ck_grid_iq3_s[512];

#endif
