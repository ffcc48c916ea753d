// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/convert.hpp>
#include <catmerge/io/float8.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <functional>
#include <harness/checkpoints/contradictions.hpp>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

/// Quantised checkpoints. 8-bit floats with scales are decoded; other codes are refused by name.
namespace catmerge::harness {

namespace detail {

/// The quantiser of a tensor name that belongs to weights stored as codes.
inline std::optional<std::string_view> quantised_by(std::string_view name) {
  struct row {
    std::string_view part;
    bool at_end;
    std::string_view what;
  };
  constexpr std::array<row, 15> rows = {{{".qweight", true, "GPTQ or AWQ"},
                                         {".qzeros", true, "GPTQ or AWQ"},
                                         {".g_idx", true, "GPTQ"},
                                         {".weight_packed", true, "compressed-tensors"},
                                         {".weight_zero_point", true, "compressed-tensors"},
                                         {".weight_scale_2", true, "NVFP4"},
                                         {"_blocks", true, "MXFP4"},
                                         {".absmax", true, "bitsandbytes, 4 bits"},
                                         {".quant_map", true, "bitsandbytes, 4 bits"},
                                         {".quant_state.", false, "bitsandbytes, 4 bits"},
                                         {".SCB", true, "bitsandbytes, 8 bits"},
                                         {".W_q", true, "HQQ"},
                                         {".qscales", true, "codes with scales"},
                                         {".codebooks", true, "AQLM"},
                                         {".Qidxs", true, "QuIP#"}}};
  for (const auto& r : rows)
    if (r.at_end ? name.ends_with(r.part) : name.find(r.part) != std::string_view::npos)
      return r.what;
  return std::nullopt;
}

inline bool is_readable_float8(io::dtype type) {
  return type == io::dtype::f8_e4m3 || type == io::dtype::f8_e5m2;
}

/// True for types that hold only codes.
inline bool is_code(io::dtype type) {
  switch (type) {
    case io::dtype::f4:
    case io::dtype::f6_e2m3:
    case io::dtype::f6_e3m2:
    case io::dtype::f8_e8m0:
    case io::dtype::f8_e4m3fnuz:
    case io::dtype::f8_e5m2fnuz: return true;
    default: return false;
  }
}

}  // namespace detail

/// The weights of one checkpoint that are stored as 8-bit floats (F8_E4M3, F8_E5M2) with a scale:
///
///     NAME_scale, NAME_scale_inv    W = scale * code; one scale, or one per row (d_out), or
///                                   one per block (128 x 128, or weight_block_size of
///                                   config.json)
///     MODULE.input_scale, ...       scales of activations: no part of the weights
///
/// ("inv" scales multiply, too: DeepSeek-V3 and its successors.)
class quantised_weights {
 public:
  /// `merged(name)`: true for tensors in the merge. Throws, naming file and tensor, if one of these
  /// is quantised in another way, or if a scale does not fit.
  quantised_weights(const io::checkpoint& file,
                    const std::function<bool(std::string_view)>& merged) {
    for (const auto& name : file.names()) {
      const auto& entry = file.at(name);
      if (!merged(name) || !detail::is_readable_float8(entry.type)) continue;
      // Without a scale the meaning of codes is unknown: they are compared like integers.
      for (const char* end : {"_scale_inv", "_scale"})
        if (const auto* scale = file.find(name + end); scale != nullptr) {
          add(file, entry, *scale);
          scale_names_.insert(name + end);
          break;
        }
    }
    for (const auto& name : file.names())
      if (is_companion(file, name)) scale_names_.insert(name);
    const std::string method = method_in_config(file);
    std::set<std::string, std::less<>> stems;  // of codes outside the merge
    for (const auto& name : file.names()) {
      if (is_scale(name) || io::scalar_of(file.at(name).type)) continue;
      if (!merged(name))
        stems.insert(stem_of(name));
      else
        refuse_codes(file, name, method);
    }
    if (stems.empty()) return;
    for (const auto& name : file.names())
      if (is_scale_of(stems, name)) copied_scales_.insert(name);
  }

  /// True if no tensor is decoded.
  bool empty() const { return scales_.empty(); }
  /// True for a tensor of 8-bit floats with a scale.
  bool has_scale(const io::tensor_entry& entry) const { return scales_.contains(&entry); }
  /// True for the scale of codes outside the merge: codes and scale are copied.
  bool is_copied_scale(std::string_view name) const {
    return copied_scales_.find(name) != copied_scales_.end();
  }
  /// True for the scale of a decoded tensor or of activations: no parameter of its own.
  bool is_scale(std::string_view name) const {
    return scale_names_.find(name) != scale_names_.end();
  }

  /// Rows first ... first + count - 1 of a tensor that has a scale, decoded.
  host_matrix decoded(const io::tensor_entry& entry, index_t first, index_t count) const {
    const auto& scale = scales_.at(&entry);
    const auto table = io::float8_table(entry.type);
    const index_t columns = entry.shape[1];
    host_matrix values(scalar_type::f32, count, columns);
    auto* const out = static_cast<float*>(host_view(values).writable());
    const auto* const codes = entry.bytes.data() + first * columns;
    for (index_t i = 0; i < count; ++i)
      for (index_t j = 0; j < columns; ++j)
        out[i * columns + j] = table[std::to_integer<std::size_t>(codes[i * columns + j])] *
                               scale.values[static_cast<std::size_t>(
                                   (first + i) / scale.height * scale.across + j / scale.width)];
    return values;
  }

 private:
  struct scale_grid {
    std::vector<float> values;      // row-major
    index_t height = 1, width = 1;  // of the block of one scale
    index_t across = 1;             // scales in a row of blocks
  };

  static nlohmann::json quantization(const io::checkpoint& file) {
    const auto config = detail::side_object(file, "config.json");
    for (const char* key : {"quantization_config", "compression_config"})
      if (config.is_object() && config.contains(key) && config[key].is_object()) return config[key];
    return {};
  }

  static std::string method_in_config(const io::checkpoint& file) {
    const auto q = quantization(file);
    if (!q.is_object()) return {};
    const auto method = q.find("quant_method");
    return method != q.end() && method->is_string() ? method->get<std::string>() : "an unnamed way";
  }

  static std::pair<index_t, index_t> block_of(const io::checkpoint& file) {
    const auto q = quantization(file);
    if (q.is_object())
      if (const auto size = q.find("weight_block_size");
          size != q.end() && size->is_array() && size->size() == 2 &&
          (*size)[0].is_number_unsigned() && (*size)[1].is_number_unsigned() && (*size)[0] > 0 &&
          (*size)[1] > 0)
        return {(*size)[0].get<index_t>(), (*size)[1].get<index_t>()};
    return {128, 128};  // the block of DeepSeek-V3 and its successors
  }

  void add(const io::checkpoint& file, const io::tensor_entry& entry,
           const io::tensor_entry& scale) {
    const auto refuse = [&](const std::string& why) {
      io::fail(file.path(), entry.name,
               io::describe(entry) + " with the scale '" + scale.name + "', " +
                   io::describe(scale) + ": " + why);
    };
    if (entry.shape.size() != 2)
      refuse("8-bit floats are read as matrices only: --exclude or --drop it");
    const index_t rows = entry.shape[0], columns = entry.shape[1];
    scale_grid grid;
    const auto count = static_cast<index_t>(*io::element_count(scale.shape));
    const auto [block_rows, block_columns] = block_of(file);
    const auto up = [](index_t a, index_t b) { return (a + b - 1) / b; };
    const io::shape_t blocks = {up(rows, block_rows), up(columns, block_columns)};
    if (count == 1) {
      grid.height = std::max<index_t>(1, rows), grid.width = std::max<index_t>(1, columns);
    } else if (scale.shape == io::shape_t{rows} || scale.shape == io::shape_t{rows, 1}) {
      grid.width = std::max<index_t>(1, columns);
    } else if (scale.shape == blocks) {
      grid.height = block_rows, grid.width = block_columns, grid.across = blocks[1];
    } else {
      refuse("expected one scale, one per row, or " + io::to_string(blocks) + " for blocks of " +
             std::to_string(block_rows) + " x " + std::to_string(block_columns));
    }
    grid.values.resize(static_cast<std::size_t>(count));
    if (scale.type == io::dtype::f8_e8m0) {
      const auto table = io::float8_table(scale.type);
      for (std::size_t i = 0; i < grid.values.size(); ++i)
        grid.values[i] = table[std::to_integer<std::size_t>(scale.bytes[i])];
    } else if (const auto type = io::scalar_of(scale.type)) {
      io::convert(scale.bytes, *type, std::as_writable_bytes(std::span(grid.values)),
                  scalar_type::f32);
    } else {
      refuse("expected floating-point scales");
    }
    scales_.emplace(&entry, std::move(grid));
  }

  /// True for the scale of activations of a module with a decoded weight.
  bool is_companion(const io::checkpoint& file, std::string_view name) const {
    for (const std::string_view end :
         {".input_scale", ".input_scale_inv", ".activation_scale", ".input_scale_ub"})
      if (name.ends_with(end)) {
        const auto* weight =
            file.find(std::string(name.substr(0, name.size() - end.size())) + ".weight");
        return weight != nullptr && has_scale(*weight);
      }
    return false;
  }

  /// The module of a code tensor: "l" for "l.weight", "l.qweight" and "l.weight.absmax", "l.w" for
  /// "l.w_blocks".
  static std::string stem_of(std::string_view name) {
    for (const std::string_view end :
         {".weight", ".qweight", ".qzeros", ".g_idx", ".weight_packed", "_blocks", ".SCB"})
      if (name.ends_with(end)) return std::string(name.substr(0, name.size() - end.size()));
    return std::string(name.substr(0, name.rfind('.')));
  }

  static bool is_scale_of(const std::set<std::string, std::less<>>& stems, std::string_view name) {
    const auto holds = [&](std::string_view word) {
      return name.find(word) != std::string_view::npos;
    };
    if (!holds("scale") && !holds("zero") && !holds("absmax") && !holds("quant")) return false;
    for (std::size_t at = name.find_first_of("._"); at != std::string_view::npos;
         at = name.find_first_of("._", at + 1))
      if (stems.find(name.substr(0, at)) != stems.end()) return true;
    return false;
  }

  static void refuse_codes(const io::checkpoint& file, const std::string& name,
                           const std::string& method) {
    const auto& entry = file.at(name);
    const auto by = detail::quantised_by(name);
    const bool integers =
        entry.type == io::dtype::u8 || entry.type == io::dtype::i8 || entry.type == io::dtype::i32;
    const bool with_scale = integers && (!method.empty() || file.find(name + "_scale") != nullptr);
    if (!by && !detail::is_code(entry.type) && !(with_scale && entry.shape.size() >= 2)) return;
    const std::string quantiser = by               ? ", " + std::string(*by)
                                  : method.empty() ? std::string()
                                                   : ", '" + method + "' in config.json";
    io::fail(file.path(), name,
             "is quantised (" + io::describe(entry) + quantiser +
                 "): codes cannot be merged. Merge the networks that they were made from, or leave "
                 "such tensors alone by --exclude or --drop");
  }

  std::map<const io::tensor_entry*, scale_grid> scales_;  // by the weight
  std::set<std::string, std::less<>> scale_names_, copied_scales_;
};

}  // namespace catmerge::harness
