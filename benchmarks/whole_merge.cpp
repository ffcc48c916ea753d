// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// Time and memory of merges of full-sized networks. Makes random checkpoints of the shapes of
// CLIP's vision transformers (a base and eight experts, F32), merges them by the program as users
// do, and prints seconds, ratios and the peak of the program's resident memory, mapped pages
// included. Beside: the time to read the same files and write the result, and a plain NumPy port of
// the formulas (benchmarks/reference/cat.py).
//
//     benchmark_whole_merge PROGRAM FOLDER [--reference[-in-full] SCRIPT]
//                           [vit-b-32|vit-l-14][:LAYERS]...
//
// LAYERS: CAT merges only that many of the first layers, to save time: one layer takes as much
// memory as any other. FOLDER takes 3.5 GB for ViT-B/32 and 12 GB for ViT-L/14; its files are
// reused. Outputs go to memory (/dev/shm), so that no disk is timed. SCRIPT is run by python3,
// which needs NumPy: one weight of each shape (the quicker of two runs), times their number, or
// all. "The machine's" row is the time of the operations of CAT's trims, counted from its report,
// at the rate of a large product of floats measured here, plus Task Arithmetic's time. Fails if a
// merge takes more memory than the limits below.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catmerge/io/checkpoint_writer.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <harness/system/pool.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "temporary_folder.hpp"

namespace {

namespace fs = std::filesystem;
namespace io = catmerge::io;
namespace harness = catmerge::harness;
using catmerge::index_t;

struct shape {
  std::string name;
  index_t width, mlp, layers, heads, patch, projection;
  double limit_mb;  ///< the memory of a merge of eight experts
};

const std::vector<shape> shapes = {{"vit-b-32", 768, 3072, 12, 12, 32, 512, 600},
                                   {"vit-l-14", 1024, 4096, 24, 16, 14, 768, 1500}};
constexpr int experts = 8;
constexpr index_t image = 224, samples = 2;

std::vector<io::tensor_info> tensors_of(const shape& s) {
  std::vector<io::tensor_info> list;
  const auto add = [&](const std::string& name, io::shape_t extents) {
    list.push_back({name, io::dtype::f32, std::move(extents)});
  };
  const auto affine = [&](const std::string& name, io::shape_t weight) {
    const index_t out = weight.front();
    add(name + ".weight", std::move(weight));
    add(name + ".bias", {out});
  };
  const std::string m = "vision_model.";
  const index_t grid = image / s.patch, d = s.width;
  add(m + "embeddings.class_embedding", {d});
  add(m + "embeddings.patch_embedding.weight", {d, 3, s.patch, s.patch});
  add(m + "embeddings.position_embedding.weight", {grid * grid + 1, d});
  affine(m + "pre_layrnorm", {d});
  for (index_t i = 0; i < s.layers; ++i) {
    const std::string at = m + "encoder.layers." + std::to_string(i) + ".";
    for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"})
      affine(at + "self_attn." + name, {d, d});
    affine(at + "layer_norm1", {d});
    affine(at + "layer_norm2", {d});
    affine(at + "mlp.fc1", {s.mlp, d});
    affine(at + "mlp.fc2", {d, s.mlp});
  }
  affine(m + "post_layernorm", {d});
  add("visual_projection.weight", {s.projection, d});
  return list;
}

std::string config_of(const shape& s) {
  const auto number = [](const char* key, index_t value) {
    return "  \"" + std::string(key) + "\": " + std::to_string(value) + ",\n";
  };
  return "{\n  \"architectures\": [\"CLIPVisionModelWithProjection\"],\n" +
         number("hidden_size", s.width) + number("intermediate_size", s.mlp) +
         number("num_hidden_layers", s.layers) + number("num_attention_heads", s.heads) +
         number("patch_size", s.patch) + number("image_size", image) +
         number("projection_dim", s.projection) + "  \"model_type\": \"clip_vision_model\"\n}\n";
}

/// A value in (-1, 1) for each seed and place.
float noise(std::uint64_t seed, std::uint64_t place) {
  std::uint64_t x = seed * 0x9e3779b97f4a7c15U + place;  // splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return static_cast<float>(static_cast<std::int64_t>(x ^ (x >> 31))) * 0x1p-63F;
}

/// An entry of an expert's task vector, row i and column j of a matrix: mostly of low rank, as
/// after fine-tuning, and a few percent of the weights.
float change(std::uint64_t seed, std::uint64_t i, std::uint64_t j, std::uint64_t columns) {
  float sum = 0.3F * noise(seed, i * columns + j), size = 1;
  for (std::uint64_t r = 1; r <= 8; ++r, size *= 0.8F)
    sum += size * noise(seed + 7777 * r, i) * noise(seed + 9999 * r, j);
  return 0.002F * sum;
}

/// The base, or for k > 0 an expert.
void make_checkpoint(const fs::path& folder, const shape& s, int k) {
  if (fs::exists(folder)) return;
  std::printf("making %s\n", folder.c_str());
  const auto list = tensors_of(s);
  io::checkpoint_writer writer(folder, list,
                               {io::checkpoint_format::hugging_face_folder,
                                {{"format", "pt"}},
                                {{"config.json", {}, config_of(s)}}});
  std::uint64_t seed = 0;
  for (const auto& info : list) {
    ++seed;
    const bool norm = info.name.find("norm") != std::string::npos;
    const float centre = norm && info.name.ends_with("weight") ? 1.0F : 0.0F;
    const std::uint64_t count = *io::element_count(info.shape);
    const std::uint64_t columns = count / static_cast<std::uint64_t>(info.shape.front());
    std::vector<float> block;
    for (std::uint64_t first = 0; first < count; first += block.size()) {
      block.resize(std::min<std::uint64_t>(count - first, 1 << 18));
      for (std::size_t i = 0; i < block.size(); ++i) {
        block[i] = centre + 0.05F * noise(seed, first + i);
        if (k > 0)
          block[i] += change(seed + 1000U * static_cast<unsigned>(k), (first + i) / columns,
                             (first + i) % columns, columns);
      }
      writer.append(info.name, std::as_bytes(std::span(block)));
    }
  }
  writer.commit();
}

/// Images of plain squares. Their colours differ from task to task, and so do the inputs of the
/// layers, as between real tasks.
void make_samples(const fs::path& file, int k) {
  if (fs::exists(file)) return;
  std::vector<std::uint8_t> pixels;
  const auto seed = static_cast<std::uint64_t>(k) + 77;
  for (index_t plane = 0; plane < samples * 3; ++plane)
    for (index_t row = 0; row < image; ++row)
      for (index_t column = 0; column < image; ++column) {
        const auto square =
            static_cast<std::uint64_t>((plane * image + row / 28) * image + column / 28);
        const float colour = 0.5F * noise(seed, static_cast<std::uint64_t>(plane % 3)) +
                             0.5F * noise(seed + 1000, square);
        pixels.push_back(static_cast<std::uint8_t>(127.5F + 127 * colour));
      }
  io::safetensors_writer writer(file, {{"pixel_values", io::dtype::u8, {samples, 3, image, image}}},
                                {{"mean", "0.48,0.46,0.41"}, {"std", "0.27,0.26,0.28"}});
  writer.write("pixel_values", std::as_bytes(std::span(pixels)));
  writer.commit();
}

struct cost {
  double peak_mb, seconds;
};

/// Runs the program; throws if it fails.
cost run(const std::vector<std::string>& line) {
  std::vector<std::string> words = line;
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const auto start = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    ::execv(argv[0], argv.data());
    std::_Exit(127);
  }
  int status = 0;
  rusage used{};
  if (child < 0 || ::wait4(child, &status, 0, &used) != child || status != 0)
    throw catmerge::error("failed: " + words.front() + " " + words.at(1));
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  return {static_cast<double>(used.ru_maxrss) * 1024 / 1e6, taken.count()};
}

/// Runs a shell command.
cost shell(const std::string& script) {
  return run({"/bin/sh", "-c", script});
}

/// The folder of outputs: in memory, if there is such a file system.
fs::path outputs() {
  const fs::path shm = "/dev/shm";
  return fs::is_directory(shm) ? shm : fs::temp_directory_path();
}

/// Operations per second of products of floats, 3072 x 3072, with as many threads as the program's.
double product_rate() {
  harness::pool threads(std::max(1U, std::thread::hardware_concurrency()));
  catmerge::context<catmerge::host> c(threads.runner());
  constexpr index_t n = 3072;
  auto a = c.make(catmerge::scalar_type::f32, n, n), b = c.make(catmerge::scalar_type::f32, n, n),
       y = c.make(catmerge::scalar_type::f32, n, n);
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    c.multiply(1, a, catmerge::op::none, b, catmerge::op::none, 0, y);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2.0 * n * n * n / taken.count());
  }
  return best;
}

/// Operations of CAT's trims of linear weights, from its report: products with G_k, shifts if they
/// are formed, and the trims themselves.
double operations_of(const fs::path& report, const shape& s) {
  std::map<std::string, io::shape_t> shapes_of;
  for (const auto& info : tensors_of(s)) shapes_of[info.name] = info.shape;
  const auto all = nlohmann::json::parse(std::ifstream(report));
  double operations = 0;
  for (const auto& parameter : all.at("parameters")) {
    if (parameter.at("kind") != "linear" || !parameter.at("trimmed").get<bool>()) continue;
    const auto& extents = shapes_of.at(parameter.at("name").get<std::string>());
    const auto d_out = static_cast<double>(extents[0]), d_in = static_cast<double>(extents[1]);
    const double tasks = experts, n = parameter.at("rows").front().get<double>();
    for (const auto& p : parameter.at("removed")) {
      const auto products = p.at("products").get<double>();
      const auto taken = static_cast<double>(p.at("eigenvalues").size());
      const double pairs = tasks - 1;
      if (p.at("solver") == "weights")
        operations += products * pairs * (4 * d_out * d_in + 8 * n * d_in);
      else
        operations += 2 * tasks * n * d_out * d_in + products * pairs * 8 * n * d_out;
      operations += pairs * taken * 4 * d_out * d_in;
    }
  }
  return operations;
}

struct settings {
  std::string program;
  fs::path folder, reference;
  bool in_full = false;  ///< the reference runs on every weight, not one of each shape
};

/// Returns true if all merges stay within the limit.
bool measure(const settings& options, const shape& s, index_t layers) {
  const fs::path folder = options.folder / s.name;
  fs::create_directories(folder);
  for (int k = 0; k <= experts; ++k) {
    make_checkpoint(folder / ("model-" + std::to_string(k)), s, k);
    if (k > 0) make_samples(folder / ("samples-" + std::to_string(k) + ".safetensors"), k);
  }
  const catmerge_benchmark::temporary_folder out(outputs());
  std::vector<std::string> merge = {
      options.program,    "merge",       "--quiet",  "--base",
      folder / "model-0", "--overwrite", "--output", out.path() / "merged"};
  std::vector<std::string> by_samples, by_features, by_half_the_rows;
  std::string inputs = (folder / "model-0" / "model.safetensors").string(), port;
  cost features{0, 0};
  for (int k = 1; k <= experts; ++k) {
    const std::string task = std::to_string(k), model = folder / ("model-" + task);
    const std::string file = folder / ("samples-" + task + ".safetensors");
    const std::string recorded = folder / ("features-" + task + ".safetensors");
    merge.insert(merge.end(), {"--expert", task + "=" + model});
    by_samples.insert(by_samples.end(), {"--samples", task + "=" + file});
    by_features.insert(by_features.end(), {"--features", task + "=" + recorded});
    inputs += " " + model + "/model.safetensors";
    port += " --expert " + task + "=" + model + "/model.safetensors --features " + task + "=" +
            recorded;
    const cost one = run({options.program, "features", "--model", model, "--samples", file,
                          "--output", recorded, "--overwrite"});
    features = {std::max(features.peak_mb, one.peak_mb), features.seconds + one.seconds};
    const std::string fewer = folder / ("features-of-1-" + task + ".safetensors");
    by_half_the_rows.insert(by_half_the_rows.end(), {"--features", task + "=" + fewer});
    run({options.program, "features", "--model", model, "--samples", file, "--sample-count", "1",
         "--output", fewer, "--overwrite"});
  }
  bool good = true;
  const auto line = [&](const std::string& what, double peak_mb, double seconds, double against,
                        const char* unit) {
    char peak[32] = "", ratio[64] = "";
    if (peak_mb > 0) std::snprintf(peak, sizeof peak, "%.0f", peak_mb);
    if (against > 0) std::snprintf(ratio, sizeof ratio, "%.2f %s", seconds / against, unit);
    std::printf("| %-8s | %-44s | %8.2f | %-24s | %8s |\n", s.name.c_str(), what.c_str(), seconds,
                ratio, peak);
    std::fflush(stdout);
  };
  const auto row = [&](const std::string& what, const cost& c, double against = 0,
                       const char* unit = "") {
    line(what, c.peak_mb, c.seconds, against, unit);
    good = good && c.peak_mb <= s.limit_mb;
  };
  const auto with = [&](std::vector<std::string> words, const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  row("features of 8 experts, one by one", features);
  // All files are in the page cache by now. Times in a ratio are the least of three: the machine at
  // its best.
  const auto least = [](const auto& timed) {
    cost best = timed();
    for (int i = 1; i < 3; ++i) {
      const cost again = timed();
      best = {std::max(best.peak_mb, again.peak_mb), std::min(best.seconds, again.seconds)};
    }
    return best;
  };
  const std::string model = (folder / "model-0" / "model.safetensors").string();
  const cost copy = least([&] {
    return shell("cat " + inputs + " > /dev/null && cat " + model + " > " +
                 (out.path() / "copy").string());
  });
  line("cat of the inputs, and of one to the output", 0, copy.seconds, 0, "");
  const std::vector<std::string> plain = {"--method", "task-arithmetic"};
  const cost sum = least([&] { return with(merge, plain); });
  row("Task Arithmetic", sum, copy.seconds, "of cat");
  std::string layers_text;
  if (layers < s.layers) {
    layers_text = ", " + std::to_string(layers) + (layers == 1 ? " layer" : " layers");
    for (index_t i = 0; i < layers; ++i)
      merge.insert(merge.end(), {"--include", "*.layers." + std::to_string(i) + ".*"});
  }
  const bool whole = layers == s.layers;
  const cost cat = least([&] { return with(merge, by_features); });
  row("CAT from features" + layers_text, cat, whole ? sum.seconds : 0, "of Task Arithmetic");
  const auto by_one_thread = [](std::vector<std::string> words) {
    words.insert(words.end(), {"--threads", "1"});
    return words;
  };
  const cost one = least([&] { return with(merge, by_one_thread(by_features)); });
  row("CAT from features, one thread" + layers_text, one, cat.seconds, "of all threads");
  if (whole) {
    // The other work of both methods, reading, summing and writing, is bound by memory.
    const cost sum_alone = least([&] { return with(merge, by_one_thread(plain)); });
    row("Task Arithmetic, one thread", sum_alone, sum.seconds, "of all threads");
    line("(the trims: CAT without Task Arithmetic)", 0, one.seconds - sum_alone.seconds,
         cat.seconds - sum.seconds, "of all threads");
    auto half = merge;
    std::vector<std::string> half_features;
    for (std::size_t k = 0; k < by_features.size() / 2; ++k)
      half_features.push_back(by_features[k]);
    const std::string last = std::to_string(experts / 2) + "=";
    while (half.back().rfind(last, 0) != 0) half.pop_back();
    const cost four = least([&] { return with(half, half_features); });
    line("CAT from features, half the experts", four.peak_mb, four.seconds, 0, "");
    line("(twice the experts, times the time)", 0, cat.seconds, four.seconds, "times");
    const cost fewer = least([&] { return with(merge, by_half_the_rows); });
    line("CAT from features, half the rows", fewer.peak_mb, fewer.seconds, 0, "");
    line("(twice the rows, times the time)", 0, cat.seconds, fewer.seconds, "times");
    const fs::path report = out.path() / "report.json";
    auto reported = by_features;
    reported.insert(reported.end(), {"--report", report});
    row("CAT from features, with a report", with(merge, reported), cat.seconds, "of without");
    const double rate = product_rate(), operations = operations_of(report, s);
    std::printf("%.2f 10^12 operations; %.0f GFLOP/s\n", operations / 1e12, rate / 1e9);
    const double machine = operations / rate + sum.seconds;
    line("the machine's: operations, Task Arithmetic", 0, machine, 0, "");
    line("(CAT from features)", 0, cat.seconds, machine, "of the machine's");
  }
  row("CAT from samples" + layers_text, with(merge, by_samples));
  if (!options.reference.empty() && whole) {
    const fs::path times = out.path() / "reference";
    shell("python3 " + options.reference.string() + " --base " + model + port +
          (options.in_full ? " --time all > " : " --time shapes > ") + times.string());
    double seconds = 0;
    std::ifstream(times) >> seconds;
    line(options.in_full ? "NumPy port" : "NumPy port, one of each shape, times its count", 0,
         seconds, cat.seconds, "of CAT");
  }
  if (!good) std::printf("more than the %.0f MB that are allowed\n", s.limit_mb);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr,
                 "usage: %s PROGRAM FOLDER [--reference[-in-full] SCRIPT] "
                 "[vit-b-32|vit-l-14][:LAYERS]...\n",
                 argv[0]);
    return 2;
  }
  settings options{argv[1], argv[2], {}};
  std::vector<std::string> wanted(argv + 3, argv + argc);
  if (wanted.size() >= 2 && (wanted[0] == "--reference" || wanted[0] == "--reference-in-full")) {
    options.in_full = wanted[0] == "--reference-in-full";
    options.reference = wanted[1];
    wanted.erase(wanted.begin(), wanted.begin() + 2);
  }
  if (wanted.empty())
    for (const shape& s : shapes) wanted.push_back(s.name);
  bool good = true;
  try {
    std::printf("| %-8s | %-44s | %8s | %-24s | %8s |\n", "network", "merge of 8 experts, F32",
                "seconds", "ratio", "peak, MB");
    std::printf(
        "|----------|----------------------------------------------|---------:|-------"
        "-------------------|---------:|\n");
    for (const std::string& word : wanted) {
      const auto colon = word.find(':');
      const auto found = std::find_if(shapes.begin(), shapes.end(), [&](const shape& s) {
        return s.name == word.substr(0, colon);
      });
      if (found == shapes.end()) throw catmerge::error("unknown network " + word);
      const index_t layers =
          colon == std::string::npos ? found->layers : std::stol(word.substr(colon + 1));
      good = measure(options, *found, layers) && good;
    }
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
  return good ? 0 : 1;
}
