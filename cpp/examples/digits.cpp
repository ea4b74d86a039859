// Trains a multilayer perceptron on handwritten digits until nine in ten of its weights are zero,
// beside a dense twin that sees the same batches.
//   digits DATA [--seed N] [--epochs N] [--save PREFIX] [--resume PREFIX]
// DATA is what export_digits.py writes. A training is saved as PREFIX.weights (float32, layer by
// layer) and PREFIX.safetensors (masks, levels and the schedule), as the demo in Python and
// digits.c do.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "datasparse/datasparse.hpp"

namespace {

using namespace datasparse;

using Floats = std::vector<float>;

constexpr std::size_t layer_sizes[] = {64, 500, 200, 10};
constexpr std::size_t pixels = layer_sizes[0], classes = 10, batch_size = 32;
constexpr float learning_rate = 0.1F, momentum = 0.9F, noise = 0.25F;
constexpr double final_level = 0.9;

// --- data ---------------------------------------------------------------------------------------

struct Images {
  Floats pixels;  // 64 each, in [0, 1]
  std::vector<int> labels;
};

struct Digits {
  Images train, test;
};

Floats read_floats(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  Floats values(file ? static_cast<std::size_t>(file.tellg()) / sizeof(float) : 0);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(float)));
  if (!file) throw std::runtime_error("cannot read " + path);
  return values;
}

/// A third to test on; the order depends on the seed.
Digits read_digits(const std::string& path, std::mt19937& random) {
  const Floats rows = read_floats(path);
  constexpr std::size_t row_size = pixels + 1;
  std::vector<std::size_t> order(rows.size() / row_size);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  Digits digits;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const float* row = rows.data() + order[i] * row_size;
    Images& images = i < order.size() / 3 ? digits.test : digits.train;
    images.pixels.insert(images.pixels.end(), row, row + pixels);
    images.labels.push_back(static_cast<int>(row[pixels]));
  }
  return digits;
}

// --- network ------------------------------------------------------------------------------------

struct Layer {
  Layer(std::size_t in, std::size_t out)
      : inputs(in), outputs(out), weight(in * out), bias(out), speed(in * out), bias_speed(out) {}

  std::size_t inputs, outputs;
  Floats weight, bias;       // weight is inputs x outputs
  Floats speed, bias_speed;  // momentum
};

using Network = std::vector<Layer>;

Network random_network(std::mt19937& random) {
  Network network;
  for (std::size_t i = 0; i + 1 < std::size(layer_sizes); ++i) {
    Layer& layer = network.emplace_back(layer_sizes[i], layer_sizes[i + 1]);
    std::normal_distribution<float> normal(0, std::sqrt(2.0F / static_cast<float>(layer.inputs)));
    for (float& w : layer.weight) w = normal(random);
  }
  return network;
}

/// y += a x, the inner loop of every product here.
void add_scaled(float* y, float a, const float* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) y[i] += a * x[i];
}

/// What enters each layer, and the logits last.
std::vector<Floats> forward(const Network& network, const Floats& images) {
  std::vector<Floats> signals = {images};
  const std::size_t count = images.size() / pixels;
  for (const Layer& layer : network) {
    const Floats& in = signals.back();
    Floats out(count * layer.outputs);
    for (std::size_t n = 0; n < count; ++n) {
      float* const row = out.data() + n * layer.outputs;
      std::copy(layer.bias.begin(), layer.bias.end(), row);
      for (std::size_t i = 0; i < layer.inputs; ++i) {
        const float x = in[n * layer.inputs + i];
        if (x != 0) add_scaled(row, x, layer.weight.data() + i * layer.outputs, layer.outputs);
      }
    }
    if (&layer != &network.back()) {
      for (float& x : out) x = std::max(x, 0.0F);
    }
    signals.push_back(std::move(out));
  }
  return signals;
}

/// From logits to the gradient of the mean cross-entropy.
void to_gradient(Floats& logits, const std::vector<int>& labels) {
  for (std::size_t n = 0; n < labels.size(); ++n) {
    float* const row = logits.data() + n * classes;
    const float largest = *std::max_element(row, row + classes);
    float sum = 0;
    for (std::size_t c = 0; c < classes; ++c) sum += row[c] = std::exp(row[c] - largest);
    for (std::size_t c = 0; c < classes; ++c) row[c] /= sum;
    row[labels[n]] -= 1;
    for (std::size_t c = 0; c < classes; ++c) row[c] /= static_cast<float>(labels.size());
  }
}

void move(Floats& values, Floats& speed, const Floats& gradient, float rate) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    speed[i] = momentum * speed[i] + gradient[i];
    values[i] -= rate * speed[i];
  }
}

/// One step of gradient descent with momentum.
void descend(Network& network, const Images& batch, float rate) {
  std::vector<Floats> signals = forward(network, batch.pixels);
  Floats error = std::move(signals.back());
  to_gradient(error, batch.labels);
  const std::size_t count = batch.labels.size();
  for (std::size_t number = network.size(); number-- > 0;) {
    Layer& layer = network[number];
    const Floats& in = signals[number];
    Floats gradient(layer.weight.size()), bias_gradient(layer.outputs), transposed, before;
    for (std::size_t n = 0; n < count; ++n) {
      const float* const row = error.data() + n * layer.outputs;
      add_scaled(bias_gradient.data(), 1, row, layer.outputs);
      for (std::size_t i = 0; i < layer.inputs; ++i) {
        const float x = in[n * layer.inputs + i];
        if (x != 0) add_scaled(gradient.data() + i * layer.outputs, x, row, layer.outputs);
      }
    }
    if (number > 0) {
      transposed.resize(layer.weight.size());
      for (std::size_t i = 0; i < layer.inputs; ++i) {
        for (std::size_t o = 0; o < layer.outputs; ++o) {
          transposed[o * layer.inputs + i] = layer.weight[i * layer.outputs + o];
        }
      }
      before.resize(count * layer.inputs);
      for (std::size_t n = 0; n < count; ++n) {
        float* const row = before.data() + n * layer.inputs;
        for (std::size_t o = 0; o < layer.outputs; ++o) {
          add_scaled(row, error[n * layer.outputs + o], transposed.data() + o * layer.inputs,
                     layer.inputs);
        }
        for (std::size_t i = 0; i < layer.inputs; ++i) {
          if (in[n * layer.inputs + i] <= 0) row[i] = 0;
        }
      }
    }
    move(layer.weight, layer.speed, gradient, rate);
    move(layer.bias, layer.bias_speed, bias_gradient, rate);
    error = std::move(before);
  }
}

double accuracy(const Network& network, const Images& images) {
  const Floats logits = forward(network, images.pixels).back();
  std::size_t right = 0;
  for (std::size_t n = 0; n < images.labels.size(); ++n) {
    const float* const row = logits.data() + n * classes;
    right += std::max_element(row, row + classes) - row == images.labels[n] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(images.labels.size());
}

/// The share of exact zeros among all weights.
double zeros(const Network& network) {
  std::ptrdiff_t zero = 0, all = 0;
  for (const Layer& layer : network) {
    zero += std::count(layer.weight.begin(), layer.weight.end(), 0.0F);
    all += static_cast<std::ptrdiff_t>(layer.weight.size());
  }
  return static_cast<double>(zero) / static_cast<double>(all);
}

// --- sparsity -----------------------------------------------------------------------------------

/// From 0 to each group's own level in `ramp_epochs`, steep at first: Zhu and Gupta (2017). It
/// saves what the scheduler of the demo in Python saves.
class Cubic : public BaseDataScheduler {
 public:
  Cubic(std::shared_ptr<BaseDataSparsifier> sparsifier, std::int64_t ramp_epochs)
      : BaseDataScheduler(std::move(sparsifier), "sparsity_level"), ramp_epochs_(ramp_epochs) {}

  ParamMap get_schedule_param() override {
    const double done = static_cast<double>(last_epoch()) / static_cast<double>(ramp_epochs_);
    const double left = std::max(0.0, 1 - done);
    ParamMap levels;
    for (const auto& [name, level] : base_param()) {
      levels.set(name, level.as_number(schedule_param(), name) * (1 - left * left * left));
    }
    return levels;
  }

  Attributes attributes() const override { return {{"ramp_epochs", ramp_epochs_}}; }
  std::function<void()> prepare_attributes(const Attributes& saved) override {
    const auto epochs = attribute<std::int64_t>(saved, "ramp_epochs");
    return [this, epochs] { ramp_epochs_ = epochs; };
  }

 private:
  std::int64_t ramp_epochs_;
};

// --- training -----------------------------------------------------------------------------------

struct Options {
  std::string data, save, resume;
  unsigned seed = 0;
  int epochs = 60;
};

void save_weights(const std::string& path, const Network& network) {
  std::ofstream file(path, std::ios::binary);
  for (const Layer& layer : network) {
    for (const Floats* values : {&layer.weight, &layer.bias}) {
      file.write(reinterpret_cast<const char*>(values->data()),
                 static_cast<std::streamsize>(values->size() * sizeof(float)));
    }
  }
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

void load_weights(const std::string& path, Network& network) {
  const Floats all = read_floats(path);
  const float* next = all.data();
  for (Layer& layer : network) {
    for (Floats* values : {&layer.weight, &layer.bias}) {
      if (next + values->size() > all.data() + all.size()) {
        throw std::runtime_error(path + " is too short");
      }
      std::copy_n(next, values->size(), values->begin());
      next += values->size();
    }
  }
}

int train(const Options& options) {
  std::mt19937 random(options.seed);
  const Digits digits = read_digits(options.data, random);
  Network sparse = random_network(random), dense = sparse;

  const auto sparsifier =
      std::make_shared<DataNormSparsifier>(BlockSpec{final_level, 1, 1, std::nullopt, Norm::L1});
  for (std::size_t i = 0; i < sparse.size(); ++i) {
    Layer& layer = sparse[i];
    const Axes shape = {static_cast<std::int64_t>(layer.inputs),
                        static_cast<std::int64_t>(layer.outputs)};
    sparsifier->add_data("layer" + std::to_string(i + 1) + ".weight", view_of(layer.weight, shape));
  }
  const auto scheduler = make_scheduler<Cubic>(sparsifier, std::max(1, options.epochs * 6 / 10));
  if (!options.resume.empty()) {
    load_weights(options.resume + ".weights", sparse);
    load_checkpoint(options.resume + ".safetensors", *sparsifier, {scheduler.get()});
  }

  const std::size_t batches = digits.train.labels.size() / batch_size;
  std::vector<std::size_t> order(digits.train.labels.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::normal_distribution<float> normal(0, noise);
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t number = 0; number < batches; ++number) {
      Images batch;
      for (std::size_t i = number * batch_size; i < (number + 1) * batch_size; ++i) {
        const auto first = digits.train.pixels.begin() + static_cast<long>(order[i] * pixels);
        batch.pixels.insert(batch.pixels.end(), first, first + pixels);
        batch.labels.push_back(digits.train.labels[order[i]]);
      }
      for (float& pixel : batch.pixels) pixel += normal(random);
      const float done =
          (static_cast<float>(epoch) + static_cast<float>(number) / static_cast<float>(batches)) /
          static_cast<float>(options.epochs);
      const float rate = learning_rate * (1 + std::cos(3.14159265F * done)) / 2;
      descend(dense, batch, rate);
      descend(sparse, batch, rate);
      sparsifier->step();
      sparsifier->apply_mask();
      for (std::size_t i = 0; i < sparse.size(); ++i) {  // pruned weights start again from rest
        const Mask mask = sparsifier->get_mask("layer" + std::to_string(i + 1) + ".weight");
        apply_mask(view_of(sparse[i].speed, mask.shape()), mask.data());
      }
    }
    scheduler->step();
  }

  if (!options.save.empty()) {
    save_weights(options.save + ".weights", sparse);
    save_checkpoint(options.save + ".safetensors", *sparsifier, {scheduler.get()});
  }
  std::printf("seed %u: %.1f%% of the weights are zero; accuracy %.2f%%, dense %.2f%%\n",
              options.seed, 100 * zeros(sparse), 100 * accuracy(sparse, digits.test),
              100 * accuracy(dense, digits.test));
  return 0;
}

Options parse(int count, char** arguments) {
  const auto usage = [] {
    throw std::runtime_error(
        "usage: digits DATA [--seed N] [--epochs N] [--save PREFIX] [--resume PREFIX]");
  };
  if (count < 2 || count % 2 != 0) usage();
  Options options;
  options.data = arguments[1];
  for (int i = 2; i < count; i += 2) {
    const std::string option = arguments[i], value = arguments[i + 1];
    if (option == "--seed") {
      options.seed = static_cast<unsigned>(std::stoul(value));
    } else if (option == "--epochs") {
      options.epochs = std::stoi(value);
    } else if (option == "--save") {
      options.save = value;
    } else if (option == "--resume") {
      options.resume = value;
    } else {
      usage();
    }
  }
  return options;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return train(parse(count, arguments));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "digits: %s\n", error.what());
    return 1;
  }
}
