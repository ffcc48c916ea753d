// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/safetensors.hpp>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <harness/networks/network.hpp>
#include <harness/networks/tensor_floats.hpp>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace catmerge::harness {

struct image_shape {
  index_t channels;
  index_t height;
  index_t width;
};

/// The images of a safetensors file: `pixel_values` (n, channels, height, width). They are F64,
/// F32, F16 or BF16 ready for the network, or U8 with the metadata keys `mean` and `std`, a
/// comma-separated number per channel each: value = (u / 255 - mean) / std. They are converted when
/// loaded. Throws catmerge::error naming the file and the tensor or the key.
class image_file : public sample_reader {
 public:
  image_file(const std::filesystem::path& path, const image_shape& expected)
      : file_(path), images_(file_.at("pixel_values")) {
    const io::shape_t& s = images_.shape;
    if (s.size() != 4 || s[1] != expected.channels || s[2] != expected.height ||
        s[3] != expected.width) {
      io::fail(path, images_.name,
               "expected shape [n, " + std::to_string(expected.channels) + ", " +
                   std::to_string(expected.height) + ", " + std::to_string(expected.width) +
                   "], as the network's configuration says, found " + io::describe(images_));
    }
    if (s[0] == 0) io::fail(path, images_.name, "holds no images");
    plane_ = expected.height * expected.width;
    if (images_.type == io::dtype::u8) {
      make_tables();
    } else if (!io::scalar_of(images_.type)) {
      io::fail(path, images_.name,
               "expected floating-point values or U8, found " + io::describe(images_));
    }
  }

  const io::safetensors_file& file() const { return file_; }
  index_t size() const override { return images_.shape.front(); }

  /// hidden: count x (channels * height * width). Precondition: first and first + count lie within
  /// 0 ... size().
  activations load(index_t first, index_t count) const override {
    const index_t pixels = images_.shape[1] * plane_;
    activations state;
    state.offsets = equal_offsets(count, 1);
    state.hidden.resize(count, pixels);
    float* to = state.hidden.data();
    if (tables_.empty()) {
      read_floats(images_, file_.path(), first * pixels, count * pixels, to);
      return state;
    }
    const std::byte* from = images_.bytes.data() + first * pixels;
    for (index_t i = 0; i < count; ++i) {
      for (const table& values : tables_) {  // one per channel
        for (index_t j = 0; j < plane_; ++j) *to++ = values[std::to_integer<std::size_t>(*from++)];
      }
    }
    return state;
  }

 private:
  /// The values of the 256 bytes in one channel; computed in double, rounded once.
  using table = std::array<float, 256>;

  void make_tables() {
    const std::vector<double> mean = numbers("mean");
    const std::vector<double> deviation = numbers("std");
    tables_.resize(mean.size());
    for (std::size_t c = 0; c < tables_.size(); ++c) {
      if (!(deviation[c] > 0)) fail_key("std", "expected positive numbers");
      for (std::size_t u = 0; u < 256; ++u) {
        tables_[c][u] =
            static_cast<float>((static_cast<double>(u) / 255.0 - mean[c]) / deviation[c]);
        if (!std::isfinite(tables_[c][u])) fail_key("std", "pixel values overflow");
      }
    }
  }

  std::vector<double> numbers(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end()) {
      fail_key(key, "is missing, and 'pixel_values' is U8: expected a number per channel");
    }
    std::vector<double> list;
    std::string_view rest = found->second;
    for (bool more = true; more;) {
      const std::size_t comma = rest.find(',');
      more = comma != std::string_view::npos;
      list.push_back(number(rest.substr(0, comma), key));
      if (more) rest.remove_prefix(comma + 1);
    }
    const auto channels = static_cast<std::size_t>(images_.shape[1]);
    if (list.size() != channels) {
      fail_key(key, "expected " + std::to_string(channels) + " numbers, one per channel, found " +
                        io::in_quotes(found->second));
    }
    return list;
  }

  double number(std::string_view text, const std::string& key) const {
    constexpr std::string_view blank = " \t";
    const std::size_t begin = std::min(text.find_first_not_of(blank), text.size());
    const std::size_t end = text.find_last_not_of(blank) + 1;  // npos + 1 == 0
    const std::string digits(text.substr(begin, end > begin ? end - begin : 0));
    double value = 0;
    std::istringstream in(digits);
    in.imbue(std::locale::classic());
    in >> value;
    if (digits.empty() || in.fail() || !in.eof() || !std::isfinite(value)) {
      fail_key(key, "expected numbers separated by commas, found " + io::in_quotes(text));
    }
    return value;
  }

  [[noreturn]] void fail_key(const std::string& key, const std::string& what) const {
    io::fail(file_.path(), "metadata key " + io::in_quotes(key) + ": " + what);
  }

  io::safetensors_file file_;
  const io::tensor_entry& images_;  // in file_; entries never move
  index_t plane_ = 0;               // pixels of a channel
  std::vector<table> tables_;       // per channel; empty unless U8
};

}  // namespace catmerge::harness
