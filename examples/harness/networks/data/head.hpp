// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/adapter_folder.hpp>
#include <catmerge/io/checkpoint.hpp>
#include <cstdint>
#include <filesystem>
#include <harness/networks/checkpoint_weights.hpp>
#include <harness/networks/layers.hpp>
#include <harness/networks/network.hpp>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace catmerge::harness {

/// True if a network puts out logits itself: there are no heads of tasks.
inline bool has_no_head(output_kind kind) {
  return kind == output_kind::next_token || kind == output_kind::match;
}

/// The last layers of a task, from a network's output to a number per class or to one value. The
/// head's form follows from the names in its file, which may be a whole checkpoint. x is a row of
/// the output:
///
///   weight, bias                                weight x + bias; for a CLIP x / |x| instead of x,
///                                               and the rows of weight are text embeddings
///   classifier.{weight,bias}                    weight x + bias: transformers' sequence
///                                               classification for BERT, x the pooled output
///   classifier.{dense,out_proj}.{weight,bias}   out_proj(tanh(dense(x))): for RoBERTa, x the first
///                                               token's row
///
/// A bias may be absent. The output of a language model, or of one that matches images and texts,
/// has its logits already: there is no head, and no file is read. Of matching they are the first
/// two columns.
class task_head {
 public:
  /// For outputs of `kind`, `width` columns wide. Throws catmerge::error naming the file and the
  /// tensor if there is no head, more than one, or one for another kind of output.
  task_head(const std::filesystem::path& path, output_kind kind, index_t width)
      : normalises_(kind == output_kind::embedding),
        outputs_(kind == output_kind::match ? 2 : width) {
    if (has_no_head(kind)) return;
    const io::checkpoint file = opened(path);
    const struct {
      std::string module;
      std::optional<output_kind> fits;  // the only output kind; none: any
    } forms[] = {{"", {}},
                 {"classifier.", output_kind::pooled},
                 {"classifier.out_proj.", output_kind::first_token}};
    const std::string* found = nullptr;
    for (const auto& form : forms) {
      const std::string name = form.module + "weight";
      if (file.find(name) == nullptr) continue;
      if (found != nullptr) {
        io::fail(path, name, "the file has another head, " + io::in_quotes(*found + "weight"));
      }
      if (form.fits && *form.fits != kind) {
        io::fail(path, name,
                 "is a head for " + describe(*form.fits) + ", but the network puts out " +
                     describe(kind));
      }
      found = &form.module;
    }
    if (found == nullptr) {
      io::fail(path,
               "holds no head: expected a tensor 'weight', 'classifier.weight' or "
               "'classifier.out_proj.weight'");
    }
    if (*found == "classifier.out_proj.") dense_ = read(file, "classifier.dense.", width, width);
    const io::tensor_entry& weights = file.at(*found + "weight");
    if (weights.shape.size() != 2 || weights.shape[0] < 1 || weights.shape[1] != width) {
      io::fail(path, weights.name,
               "expected shape [classes, " + std::to_string(width) +
                   "], the width of the network's output, found " + io::describe(weights));
    }
    outputs_ = weights.shape[0];
    last_ = read(file, *found, outputs_, width);
  }

  /// The number of classes or tokens, or 1 for a value.
  index_t outputs() const { return outputs_; }

  /// rows: n x width, the network's output. Returns n x outputs. A row of zeros stays zero.
  matrix operator()(const matrix_view& rows) const {
    matrix x = rows;
    if (normalises_) {
      for (index_t i = 0; i < x.rows(); ++i) x.row(i).normalize();
    }
    if (dense_) {
      x = (*dense_)(view(x));
      apply_tanh(x);
    }
    if (last_) return (*last_)(view(x));
    return x.leftCols(outputs_);
  }

 private:
  /// The file of a head; of an adapter the tensors that it holds whole, by their names in its
  /// model.
  static io::checkpoint opened(const std::filesystem::path& path) {
    if (!io::is_adapter_folder(path)) return io::checkpoint(path);
    const io::adapter adapter(path);
    io::checkpoint file(adapter.file().path());
    std::map<std::string, std::string> whole;  // by the name in the file
    for (const auto& tensor : adapter.replaced()) whole.emplace(tensor.entry->name, tensor.name);
    file.rename([&](const std::string& name) {
      const auto found = whole.find(name);
      return found == whole.end() ? name : found->second;
    });
    return file;
  }

  static std::string describe(output_kind kind) {
    switch (kind) {
      case output_kind::embedding: return "an image's embedding";
      case output_kind::pooled: return "BERT's pooled output";
      case output_kind::first_token: return "the first token's row";
      case output_kind::match:
      case output_kind::next_token: break;
    }
    return "logits of next tokens";
  }

  /// A copy, so that the file can be closed.
  static linear read(const io::checkpoint& file, const std::string& module, index_t out,
                     index_t in) {
    const auto copy = [&](const parameter& p) -> weight {
      const weight values = checkpoint_weights(file).get(p);
      return {p.shape, std::vector<float>(values.data(), values.data() + values.size())};
    };
    linear layer{copy({module + "weight", {out, in}}), {}};
    if (file.find(module + "bias") != nullptr) layer.bias = copy({module + "bias", {out}});
    return layer;
  }

  bool normalises_;
  index_t outputs_;
  std::optional<linear> dense_, last_;
};

/// The class of the largest output of each row; among equals the first.
inline std::vector<std::int64_t> top1(const matrix_view& outputs) {
  std::vector<std::int64_t> classes;
  for (index_t i = 0; i < outputs.rows(); ++i) {
    index_t best = 0;
    outputs.row(i).maxCoeff(&best);
    classes.push_back(best);
  }
  return classes;
}

}  // namespace catmerge::harness
