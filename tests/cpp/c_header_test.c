/* That the header is C99 as it stands, and that C links. */
#include "datasparse/datasparse.h"

int c_header_works(void);

int c_header_works(void) {
  float row[4] = {0.5F, -0.1F, 0.2F, 1.0F};
  uint8_t mask[4];
  const int64_t shape[1] = {4};
  const datasparse_array data = datasparse_array_of(DATASPARSE_FLOAT32, row, 1, shape);
  const datasparse_block_spec spec = datasparse_block_spec_of(0.5, 1, 1);
  if (datasparse_block_mask(&data, &spec, mask, 4) != DATASPARSE_OK) return 0;
  return mask[0] == 1 && mask[1] == 0 && mask[2] == 0 && mask[3] == 1;
}
