// The training of digits.cpp in C99, by the C functions.
//   digits_c DATA [--seed N] [--epochs N] [--save PREFIX] [--resume PREFIX]

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datasparse/datasparse.h"

enum { LAYERS = 3, PIXELS = 64, CLASSES = 10, BATCH = 32, WIDEST = 500 };
static const size_t layer_sizes[LAYERS + 1] = {PIXELS, WIDEST, 200, CLASSES};
static const float learning_rate = 0.1F, momentum = 0.9F, noise = 0.25F;
static const double final_level = 0.9;

static void fail(const char* what, const char* why) {
  fprintf(stderr, "digits_c: %s: %s\n", what, why);
  exit(1);
}

// Every call of the library goes through here.
static void check(datasparse_status status) {
  if (status != DATASPARSE_OK) fail("datasparse", datasparse_error_message());
}

static void* allocate(size_t count, size_t size) {
  void* memory = calloc(count, size);
  if (memory == NULL) fail("memory", "there is not enough");
  return memory;
}

// --- random numbers -----------------------------------------------------------------------------

static uint64_t random_state;

// splitmix64
static uint64_t random_bits(void) {
  uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static double random_unit(void) { return ((double)(random_bits() >> 11) + 0.5) * 0x1p-53; }

// Box and Muller
static float random_normal(float deviation) {
  const double radius = sqrt(-2 * log(random_unit()));
  return deviation * (float)(radius * cos(6.283185307179586 * random_unit()));
}

static void shuffle(size_t* order, size_t count) {
  for (size_t i = count; i > 1; --i) {
    const size_t j = (size_t)(random_bits() % i), kept = order[i - 1];
    order[i - 1] = order[j];
    order[j] = kept;
  }
}

// --- data ---------------------------------------------------------------------------------------

typedef struct {
  float* pixels;  // PIXELS each, in [0, 1]
  int* labels;
  size_t count;
} images;

static images new_images(size_t count) {
  images made = {allocate(count * PIXELS, sizeof(float)), allocate(count, sizeof(int)), 0};
  return made;
}

static void free_images(images* held) {
  free(held->pixels);
  free(held->labels);
}

static void add_image(images* target, const float* pixels, int label) {
  memcpy(target->pixels + target->count * PIXELS, pixels, PIXELS * sizeof(float));
  target->labels[target->count++] = label;
}

static size_t* numbers_below(size_t count) {
  size_t* order = allocate(count, sizeof(size_t));
  for (size_t i = 0; i < count; ++i) order[i] = i;
  return order;
}

// A third to test on; the order depends on the seed.
static void read_digits(const char* path, images* train, images* test) {
  enum { ROW = PIXELS + 1, MOST = 10000 };
  float* rows = allocate((size_t)MOST * ROW, sizeof(float));
  FILE* file = fopen(path, "rb");
  if (file == NULL) fail(path, "cannot be read");
  const size_t count = fread(rows, ROW * sizeof(float), MOST, file);
  fclose(file);

  size_t* order = numbers_below(count);
  shuffle(order, count);
  *train = new_images(count);
  *test = new_images(count);
  for (size_t i = 0; i < count; ++i) {
    const float* row = rows + order[i] * ROW;
    add_image(i < count / 3 ? test : train, row, (int)row[PIXELS]);
  }
  free(order);
  free(rows);
}

// --- network ------------------------------------------------------------------------------------

typedef struct {
  size_t inputs, outputs;
  float *weight, *bias;       // weight is inputs x outputs
  float *speed, *bias_speed;  // momentum
  float *gradient, *bias_gradient, *transposed;
} layer;

typedef struct {
  layer layers[LAYERS];
  float* signals[LAYERS + 1];  // of one batch: what enters each layer, and the logits last
  float* errors[LAYERS + 1];   // the gradients of these
} network;

static void make_network(network* net, size_t most_images) {
  for (size_t l = 0; l < LAYERS; ++l) {
    const size_t in = layer_sizes[l], out = layer_sizes[l + 1], all = in * out;
    layer* made = &net->layers[l];
    made->inputs = in;
    made->outputs = out;
    made->weight = allocate(all, sizeof(float));
    made->speed = allocate(all, sizeof(float));
    made->gradient = allocate(all, sizeof(float));
    made->transposed = allocate(all, sizeof(float));
    made->bias = allocate(out, sizeof(float));
    made->bias_speed = allocate(out, sizeof(float));
    made->bias_gradient = allocate(out, sizeof(float));
  }
  for (size_t l = 0; l <= LAYERS; ++l) {
    net->signals[l] = allocate(most_images * layer_sizes[l], sizeof(float));
    net->errors[l] = allocate(most_images * layer_sizes[l], sizeof(float));
  }
}

static void free_network(network* net) {
  for (size_t l = 0; l < LAYERS; ++l) {
    layer* held = &net->layers[l];
    float* all[] = {held->weight,   held->bias,       held->speed,        held->bias_speed,
                    held->gradient, held->transposed, held->bias_gradient};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]);
  }
  for (size_t l = 0; l <= LAYERS; ++l) {
    free(net->signals[l]);
    free(net->errors[l]);
  }
}

// y += a x, the inner loop of every product here.
static void add_scaled(float* y, float a, const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) y[i] += a * x[i];
}

static void forward(network* net, const float* pixels, size_t count) {
  memcpy(net->signals[0], pixels, count * PIXELS * sizeof(float));
  for (size_t l = 0; l < LAYERS; ++l) {
    const layer* at = &net->layers[l];
    for (size_t n = 0; n < count; ++n) {
      const float* in = net->signals[l] + n * at->inputs;
      float* out = net->signals[l + 1] + n * at->outputs;
      memcpy(out, at->bias, at->outputs * sizeof(float));
      for (size_t i = 0; i < at->inputs; ++i) {
        if (in[i] != 0) add_scaled(out, in[i], at->weight + i * at->outputs, at->outputs);
      }
      for (size_t o = 0; l + 1 < LAYERS && o < at->outputs; ++o) out[o] = fmaxf(out[o], 0);
    }
  }
}

// From logits to the gradient of the mean cross-entropy.
static void to_gradient(const float* logits, const int* labels, size_t count, float* gradient) {
  for (size_t n = 0; n < count; ++n, logits += CLASSES, gradient += CLASSES) {
    float largest = logits[0], sum = 0;
    for (size_t c = 1; c < CLASSES; ++c) largest = fmaxf(largest, logits[c]);
    for (size_t c = 0; c < CLASSES; ++c) sum += gradient[c] = expf(logits[c] - largest);
    for (size_t c = 0; c < CLASSES; ++c) gradient[c] /= sum;
    gradient[labels[n]] -= 1;
    for (size_t c = 0; c < CLASSES; ++c) gradient[c] /= (float)count;
  }
}

static void move(float* values, float* speed, const float* gradient, size_t count, float rate) {
  for (size_t i = 0; i < count; ++i) {
    speed[i] = momentum * speed[i] + gradient[i];
    values[i] -= rate * speed[i];
  }
}

// The gradient at the layer's input from that at its output.
static void back(layer* at, const float* in, const float* error, float* before, size_t count) {
  for (size_t i = 0; i < at->inputs; ++i) {
    for (size_t o = 0; o < at->outputs; ++o) {
      at->transposed[o * at->inputs + i] = at->weight[i * at->outputs + o];
    }
  }
  memset(before, 0, count * at->inputs * sizeof(float));
  for (size_t n = 0; n < count; ++n, in += at->inputs, before += at->inputs) {
    for (size_t o = 0; o < at->outputs; ++o) {
      add_scaled(before, error[n * at->outputs + o], at->transposed + o * at->inputs, at->inputs);
    }
    for (size_t i = 0; i < at->inputs; ++i) {
      if (in[i] <= 0) before[i] = 0;
    }
  }
}

// One step of gradient descent with momentum.
static void descend(network* net, const images* batch, float rate) {
  forward(net, batch->pixels, batch->count);
  to_gradient(net->signals[LAYERS], batch->labels, batch->count, net->errors[LAYERS]);
  for (size_t l = LAYERS; l-- > 0;) {
    layer* at = &net->layers[l];
    const float* error = net->errors[l + 1];
    memset(at->gradient, 0, at->inputs * at->outputs * sizeof(float));
    memset(at->bias_gradient, 0, at->outputs * sizeof(float));
    for (size_t n = 0; n < batch->count; ++n) {
      const float *in = net->signals[l] + n * at->inputs, *row = error + n * at->outputs;
      add_scaled(at->bias_gradient, 1, row, at->outputs);
      for (size_t i = 0; i < at->inputs; ++i) {
        if (in[i] != 0) add_scaled(at->gradient + i * at->outputs, in[i], row, at->outputs);
      }
    }
    if (l > 0) back(at, net->signals[l], error, net->errors[l], batch->count);
    move(at->weight, at->speed, at->gradient, at->inputs * at->outputs, rate);
    move(at->bias, at->bias_speed, at->bias_gradient, at->outputs, rate);
  }
}

static double accuracy(network* net, const images* tests) {
  size_t right = 0;
  for (size_t n = 0; n < tests->count; ++n) {
    size_t best = 0;
    forward(net, tests->pixels + n * PIXELS, 1);
    for (size_t c = 1; c < CLASSES; ++c) {
      if (net->signals[LAYERS][c] > net->signals[LAYERS][best]) best = c;
    }
    right += (int)best == tests->labels[n];
  }
  return (double)right / (double)tests->count;
}

// The share of exact zeros among all weights.
static double zeros(const network* net) {
  size_t zero = 0, all = 0;
  for (size_t l = 0; l < LAYERS; ++l) {
    const size_t count = net->layers[l].inputs * net->layers[l].outputs;
    for (size_t i = 0; i < count; ++i) zero += net->layers[l].weight[i] == 0;
    all += count;
  }
  return (double)zero / (double)all;
}

// Weights and biases, layer by layer; `write` or read.
static void weights_file(const char* prefix, network* net, int write) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s.weights", prefix) >= (int)sizeof path) {
    fail(prefix, "is too long");
  }
  FILE* file = fopen(path, write ? "wb" : "rb");
  if (file == NULL) fail(path, "cannot be opened");
  for (size_t l = 0; l < LAYERS; ++l) {
    float* values[] = {net->layers[l].weight, net->layers[l].bias};
    const size_t counts[] = {net->layers[l].inputs * net->layers[l].outputs,
                             net->layers[l].outputs};
    for (size_t i = 0; i < 2; ++i) {
      const size_t done = write ? fwrite(values[i], sizeof(float), counts[i], file)
                                : fread(values[i], sizeof(float), counts[i], file);
      if (done != counts[i]) fail(path, write ? "cannot be written" : "is too short");
    }
  }
  if (fclose(file) != 0) fail(path, "cannot be written");
}

// --- sparsity -----------------------------------------------------------------------------------

typedef struct {
  int64_t ramp_epochs, loaded_ramp_epochs;
} cubic;

// From 0 to each group's own level in ramp_epochs, steep at first: Zhu and Gupta (2017).
static datasparse_status cubic_levels(void* user_data, int64_t last_epoch,
                                      const datasparse_params* base, const datasparse_params* last,
                                      datasparse_params* values) {
  const cubic* self = user_data;
  const double left = fmax(0.0, 1 - (double)last_epoch / (double)self->ramp_epochs);
  size_t size = 0;
  datasparse_status status = datasparse_params_size(base, &size);
  (void)last;
  for (size_t i = 0; status == DATASPARSE_OK && i < size; ++i) {
    const char* name = NULL;
    double level = 0;
    status = datasparse_params_key(base, i, &name);
    if (status == DATASPARSE_OK) status = datasparse_params_get_float(base, name, &level);
    level *= 1 - left * left * left;
    if (status == DATASPARSE_OK) status = datasparse_params_set_float(values, name, level);
  }
  return status;
}

static datasparse_status cubic_save(void* user_data, datasparse_params* attributes) {
  return datasparse_params_set_int(attributes, "ramp_epochs", ((cubic*)user_data)->ramp_epochs);
}

static datasparse_status cubic_prepare(void* user_data, const datasparse_params* attributes) {
  cubic* self = user_data;
  return datasparse_params_get_int(attributes, "ramp_epochs", &self->loaded_ramp_epochs);
}

static void cubic_commit(void* user_data) {
  cubic* self = user_data;
  self->ramp_epochs = self->loaded_ramp_epochs;
}

static datasparse_scheduler* new_cubic(datasparse_sparsifier* sparsifier, int64_t ramp_epochs) {
  cubic* self = allocate(1, sizeof(cubic));
  self->ramp_epochs = ramp_epochs;
  const datasparse_scheduler_overrides overrides = {
      DATASPARSE_ABI_VERSION, {self, free, cubic_save, cubic_prepare, cubic_commit}, cubic_levels};
  datasparse_scheduler* scheduler = NULL;
  check(datasparse_scheduler_create(sparsifier, "sparsity_level", &overrides, -1, &scheduler));
  return scheduler;
}

static datasparse_sparsifier* new_sparsifier(network* net) {
  const datasparse_block_spec spec = datasparse_block_spec_of(final_level, 1, 1);
  datasparse_sparsifier* sparsifier = NULL;
  check(datasparse_data_norm_sparsifier_create(&spec, NULL, NULL, &sparsifier));
  for (size_t l = 0; l < LAYERS; ++l) {
    const int64_t shape[2] = {(int64_t)layer_sizes[l], (int64_t)layer_sizes[l + 1]};
    const datasparse_array weight =
        datasparse_array_of(DATASPARSE_FLOAT32, net->layers[l].weight, 2, shape);
    char name[32];
    snprintf(name, sizeof name, "layer%d.weight", (int)l + 1);
    check(datasparse_sparsifier_add_data(sparsifier, name, &weight, NULL));
  }
  return sparsifier;
}

// Zeroes the momentum of pruned weights: they start again from rest.
static void rest_pruned(const datasparse_sparsifier* sparsifier, network* net) {
  for (size_t l = 0; l < LAYERS; ++l) {
    char name[32];
    datasparse_mask* mask = NULL;
    uint8_t* bytes = NULL;
    size_t size = 0;
    snprintf(name, sizeof name, "layer%d.weight", (int)l + 1);
    check(datasparse_sparsifier_mask(sparsifier, name, &mask));
    check(datasparse_mask_bytes(mask, &bytes, &size));
    for (size_t i = 0; i < size; ++i) net->layers[l].speed[i] *= bytes[i];
    datasparse_mask_release(mask);
  }
}

// --- training -----------------------------------------------------------------------------------

typedef struct {
  const char *data, *save, *resume;
  uint64_t seed;
  int epochs;
} options;

static void checkpoint_path(char* path, size_t size, const char* prefix) {
  if (snprintf(path, size, "%s.safetensors", prefix) >= (int)size) fail(prefix, "is too long");
}

static void train(const options* chosen) {
  images training, tests, batch = new_images(BATCH);
  network sparse, dense;
  char path[4096];
  random_state = chosen->seed;
  read_digits(chosen->data, &training, &tests);
  make_network(&sparse, BATCH);
  make_network(&dense, BATCH);
  for (size_t l = 0; l < LAYERS; ++l) {
    const size_t count = layer_sizes[l] * layer_sizes[l + 1];
    for (size_t i = 0; i < count; ++i) {
      const float drawn = random_normal(sqrtf(2.0F / (float)layer_sizes[l]));
      sparse.layers[l].weight[i] = dense.layers[l].weight[i] = drawn;
    }
  }

  datasparse_sparsifier* sparsifier = new_sparsifier(&sparse);
  const int ramp_epochs = chosen->epochs * 6 / 10;
  datasparse_scheduler* scheduler = new_cubic(sparsifier, ramp_epochs > 1 ? ramp_epochs : 1);
  if (chosen->resume != NULL) {
    weights_file(chosen->resume, &sparse, 0);
    checkpoint_path(path, sizeof path, chosen->resume);
    check(datasparse_load_checkpoint(path, sparsifier, &scheduler, 1, 1));
  }

  size_t* order = numbers_below(training.count);
  const size_t batches = training.count / BATCH;
  for (int epoch = 0; epoch < chosen->epochs; ++epoch) {
    shuffle(order, training.count);
    for (size_t number = 0; number < batches; ++number) {
      batch.count = 0;
      for (size_t i = number * BATCH; i < (number + 1) * BATCH; ++i) {
        add_image(&batch, training.pixels + order[i] * PIXELS, training.labels[order[i]]);
      }
      for (size_t i = 0; i < BATCH * PIXELS; ++i) batch.pixels[i] += random_normal(noise);
      const double done = (epoch + (double)number / (double)batches) / chosen->epochs;
      const float rate = learning_rate * (1 + (float)cos(3.141592653589793 * done)) / 2;
      descend(&dense, &batch, rate);
      descend(&sparse, &batch, rate);
      check(datasparse_sparsifier_step(sparsifier));
      check(datasparse_sparsifier_apply_mask(sparsifier));
      rest_pruned(sparsifier, &sparse);
    }
    check(datasparse_scheduler_step(scheduler));
  }

  if (chosen->save != NULL) {
    const datasparse_scheduler* saved[] = {scheduler};
    weights_file(chosen->save, &sparse, 1);
    checkpoint_path(path, sizeof path, chosen->save);
    check(datasparse_save_checkpoint(path, sparsifier, saved, 1));
  }
  printf("seed %" PRIu64 ": %.1f%% of the weights are zero; accuracy %.2f%%, dense %.2f%%\n",
         chosen->seed, 100 * zeros(&sparse), 100 * accuracy(&sparse, &tests),
         100 * accuracy(&dense, &tests));

  datasparse_scheduler_release(scheduler);
  datasparse_sparsifier_release(sparsifier);
  free(order);
  free_network(&sparse);
  free_network(&dense);
  free_images(&batch);
  free_images(&training);
  free_images(&tests);
}

int main(int count, char** arguments) {
  options chosen = {NULL, NULL, NULL, 0, 60};
  int known = count >= 2 && count % 2 == 0;
  if (known) chosen.data = arguments[1];
  for (int i = 2; known && i < count; i += 2) {
    const char *option = arguments[i], *value = arguments[i + 1];
    if (strcmp(option, "--seed") == 0) {
      chosen.seed = strtoull(value, NULL, 10);
    } else if (strcmp(option, "--epochs") == 0) {
      chosen.epochs = atoi(value);
    } else if (strcmp(option, "--save") == 0) {
      chosen.save = value;
    } else if (strcmp(option, "--resume") == 0) {
      chosen.resume = value;
    } else {
      known = 0;
    }
  }
  if (!known) fail("usage", "DATA [--seed N] [--epochs N] [--save PREFIX] [--resume PREFIX]");
  train(&chosen);
  return 0;
}
