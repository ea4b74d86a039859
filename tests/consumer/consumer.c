#include <stdio.h>

#include "datasparse/datasparse.h"

int main(void) {
  float weights[8] = {6, 1, 7, 2, 8, 3, 5, 4};
  const int64_t shape[2] = {2, 4};
  const datasparse_array data = datasparse_array_of(DATASPARSE_FLOAT32, weights, 2, shape);
  const datasparse_block_spec spec = datasparse_block_spec_of(0.5, 1, 1);
  datasparse_sparsifier* sparsifier = NULL;
  if (datasparse_data_norm_sparsifier_create(&spec, NULL, NULL, &sparsifier) != DATASPARSE_OK ||
      datasparse_sparsifier_add_data(sparsifier, "weights", &data, NULL) != DATASPARSE_OK ||
      datasparse_sparsifier_step(sparsifier) != DATASPARSE_OK ||
      datasparse_sparsifier_apply_mask(sparsifier) != DATASPARSE_OK) {
    fprintf(stderr, "%s\n", datasparse_error_message());
    return 1;
  }
  datasparse_sparsifier_release(sparsifier);
  for (int i = 0; i < 8; ++i) printf("%g ", (double)weights[i]);
  printf("%s\n", datasparse_version());
  return 0;
}
