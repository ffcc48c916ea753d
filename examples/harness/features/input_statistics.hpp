// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/features/statistics.hpp>
#include <catmerge/io/statistics.hpp>
#include <harness/checkpoints/checkpoint_set.hpp>
#include <harness/features/expert_weights.hpp>
#include <harness/networks/network.hpp>
#include <harness/networks/writing/written_samples.hpp>
#include <harness/system/pool.hpp>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

/// Sources of a merge's statistics: files of features, or samples that run through the networks.
namespace catmerge::harness {

/// A statistics source of merge_stream.
class merge_statistics {
 public:
  merge_statistics() = default;
  merge_statistics(const merge_statistics&) = delete;
  merge_statistics& operator=(const merge_statistics&) = delete;
  virtual ~merge_statistics() = default;
  virtual std::optional<statistics_view<host>> get(index_t k, const parameter_info& p) = 0;
  virtual void release(const parameter_group& group) = 0;
  /// Sentences on unused statistics, and on texts of samples that a network wrote.
  virtual std::vector<std::string> notes() const { return {}; }
};

/// A sentence on unused names of a task's file; none if all are used.
inline std::vector<std::string> unused_sentence(const std::string& what, const std::string& task,
                                                const std::vector<std::string>& names) {
  if (names.empty()) return {};
  std::string text = what + " of '" + task + "' are given and not used for " +
                     std::to_string(names.size()) +
                     (names.size() == 1 ? " parameter:" : " parameters:");
  for (std::size_t i = 0; i < std::min<std::size_t>(10, names.size()); ++i) text += " " + names[i];
  return {names.size() > 10 ? text + " ..." : text};
}

/// Statistics, and importances from files, as the source of both for merge_stream.
class merge_knowledge {
 public:
  /// importance: a file or folder per task, with tensors of the parameters' names and shapes; or
  /// none. Throws, naming the file and the tensor, for other shapes and names.
  merge_knowledge(merge_statistics& statistics, const std::vector<task_file>& importance,
                  const checkpoint_set& set)
      : statistics_(statistics), set_(set) {
    for (const auto& task : set.tasks())
      for (const auto& file : importance)
        if (file.task == task) files_.emplace_back(file.path);
    for (const auto& file : files_)
      for (const auto& name : file.names())
        if (!set.policy().left_out(name)) check(file, file.at(name));
  }

  std::optional<statistics_view<host>> get(index_t k, const parameter_info& p) {
    return statistics_.get(k, p);
  }

  std::optional<host_const_view> importance(index_t k, const parameter_info& p) {
    if (files_.empty()) return std::nullopt;
    const auto part = set_.piece_of(p);
    used_.insert(part.tensor);
    const auto* entry = files_[static_cast<std::size_t>(k)].find(part.tensor);
    if (entry == nullptr) return std::nullopt;
    const auto [rows, columns] = extents_of(entry->shape, set_.class_of(part.tensor));
    const host_const_view stored =
        windows_.of(*entry, rows, columns).window(part.first, part.count, 0, columns);
    return p.transposed ? stored.transposed() : stored;
  }

  /// Sentences on unused statistics and importances.
  std::vector<std::string> notes() const {
    std::vector<std::string> sentences = statistics_.notes();
    for (std::size_t k = 0; k < files_.size(); ++k) {
      std::vector<std::string> names;
      for (const auto& name : files_[k].names())
        if (!used_.contains(name) && !set_.policy().left_out(name) && set_.policy().merged(name))
          names.push_back(name);
      for (auto& text : unused_sentence("importances", set_.tasks()[k], names))
        sentences.push_back(std::move(text));
    }
    return sentences;
  }

  void release(const parameter_group& group) {
    statistics_.release(group);
    windows_.clear();
    for (const auto& file : files_)
      for (const auto& p : group)
        if (const auto& name = set_.tensor_of(p.name); file.find(name) != nullptr)
          file.release(name);
  }

 private:
  void check(const io::checkpoint& file, const io::tensor_entry& entry) const {
    const auto* parameter = set_.base_file().find(entry.name);
    if (parameter == nullptr)
      io::fail(file.path(), entry.name, "no parameter of the base has this name");
    if (parameter->shape != entry.shape || !io::scalar_of(entry.type))
      io::fail(file.path(), entry.name,
               "expected floating-point values " + io::to_string(parameter->shape) +
                   ", as the base's, found " + io::describe(entry));
  }

  merge_statistics& statistics_;
  const checkpoint_set& set_;
  std::vector<io::checkpoint> files_;
  std::set<std::string> used_;  // tensors in use
  windows windows_;
};

/// No statistics, for methods that need none.
class without_statistics final : public merge_statistics {
 public:
  std::optional<statistics_view<host>> get(index_t, const parameter_info&) override { return {}; }
  void release(const parameter_group&) override {}
};

/// Files of features, one per task.
class file_statistics final : public merge_statistics {
 public:
  /// Throws, naming the file and the tensor, for a name that no parameter of the base has, and for
  /// statistics that do not fit the parameter.
  file_statistics(const std::vector<task_file>& files, const checkpoint_set& set) : set_(set) {
    for (const auto& task : set.tasks())
      for (const auto& file : files)
        if (file.task == task) files_.emplace_back(file.path);
    std::set<std::string> parameters;  // the merged ones and all members of stacks
    for (const auto& group : set.groups())
      for (const auto& p : group) {
        parameters.insert(p.name);
        for (const auto& file : files_)
          if (const auto* entry = file.find(p.name)) check(file, *entry, p);
      }
    for (const auto& file : files_)
      for (const auto& name : file.names())
        if (!parameters.contains(name) && set.base_file().find(name) == nullptr &&
            !set.policy().left_out(name))
          io::fail(file.path(), name, "no parameter of the base has this name");
    for (const auto& task : set.tasks()) tasks_.push_back(task);
  }

  std::optional<statistics_view<host>> get(index_t k, const parameter_info& p) override {
    const auto* entry = files_[static_cast<std::size_t>(k)].find(p.name);
    if (entry == nullptr) return std::nullopt;
    used_.insert(p.name);
    const statistics_view<host> view{entry->form, windows_.of(*entry->data),
                                     static_cast<double>(entry->row_count)};
    // The merge would name another parameter that shares these statistics.
    if (!context<host>().all_finite(view.data))
      io::fail(files_[static_cast<std::size_t>(k)].path(), entry->data->name,
               "the features of '" + tasks_[static_cast<std::size_t>(k)] +
                   "' hold a value that is not finite");
    return view;
  }

  void release(const parameter_group& group) override {
    windows_.clear();
    for (const auto& file : files_)
      for (const auto& p : group) file.release(p.name);
  }

  /// Statistics of parameters that a rule or an option leaves alone do not count as unused.
  std::vector<std::string> notes() const override {
    std::vector<std::string> sentences;
    for (std::size_t k = 0; k < files_.size(); ++k) {
      std::vector<std::string> names;
      for (const auto& name : files_[k].names())
        if (!used_.contains(name) && !set_.left_alone(name)) names.push_back(name);
      for (auto& text : unused_sentence("features", tasks_[k], names))
        sentences.push_back(std::move(text));
    }
    return sentences;
  }

 private:
  void check(const io::statistics_file& file, const io::statistics_entry& entry,
             const parameter_info& p) const {
    const auto& parameter = set_.base_file().at(set_.tensor_of(p.name));
    const bool linear = p.kind == layer_kind::linear;
    if (!linear && p.kind != layer_kind::scale) return;
    const bool moment = entry.form == statistics_form::second_moment;
    const std::string mismatch = " for '" + p.name + "', " + io::describe(parameter) + ", found " +
                                 io::describe(*entry.data);
    if (linear && moment)
      io::fail(file.path(), entry.data->name,
               "expected rows, a factor or a Gram matrix" + mismatch);
    const auto [rows, columns] = set_.stored_extents(p);
    const index_t width = linear && !p.transposed ? columns : rows;
    if (entry.data->shape[moment ? 0 : 1] != width)
      io::fail(file.path(), entry.data->name,
               "expected rows of " + std::to_string(width) + " entries" + mismatch);
  }

  const checkpoint_set& set_;
  std::vector<std::string> tasks_;
  std::vector<io::statistics_file> files_;
  std::set<std::string> used_;
  windows windows_;
};

/// Statistics of one task's samples for one block's parameters, gathered during a run.
class block_recorder final : public recorder {
 public:
  /// kinds: the parameters to record, by name: rows or Gram matrices for linears, second moments
  /// for scales.
  explicit block_recorder(const std::map<std::string, layer_kind>& kinds) : kinds_(kinds) {}

  bool wants(const std::vector<std::string>& names) override {
    for (const auto& name : names)
      if (kinds_.contains(name)) return true;
    return false;
  }

  bool wants_output() const override { return false; }

  void record(const std::vector<std::string>& names, matrix rows) override {
    if (rows.rows() == 0) return;  // of an expert that gets no token
    const host_const_view x(rows.data(), scalar_type::f32, rows.rows(), rows.cols(), rows.cols(),
                            1);
    // Names of one call share their input: the first one in `kinds` owns the statistics.
    std::string owner;
    for (const auto& name : names) {
      const auto wanted = kinds_.find(name);
      if (wanted == kinds_.end()) continue;
      if (owner.empty()) {
        owner = name;
        if (wanted->second == layer_kind::scale)
          moments_[name].update(x);
        else
          features_[name].update(x);
      }
      owner_[name] = owner;
    }
  }

  std::optional<statistics_view<host>> find(const std::string& name) const {
    const auto owner = owner_.find(name);
    if (owner == owner_.end()) return std::nullopt;
    if (const auto f = features_.find(owner->second); f != features_.end()) return f->second.view();
    return moments_.at(owner->second).view();
  }

  /// The owner of the statistics of each recorded name.
  const std::map<std::string, std::string>& owners() const { return owner_; }

  void clear() {
    features_.clear();
    moments_.clear();
    owner_.clear();
  }

 private:
  const std::map<std::string, layer_kind>& kinds_;
  std::map<std::string, feature_statistics<>> features_;
  std::map<std::string, moment_statistics<>> moments_;
  std::map<std::string, std::string> owner_;
};

/// A sentence on tasks whose samples lack their texts; none for none.
inline std::vector<std::string> wrote_texts_sentence(const std::vector<std::string>& tasks) {
  if (tasks.empty()) return {};
  std::string list;
  for (const auto& task : tasks) list += (list.empty() ? "'" : ", '") + task + "'";
  return {"the samples of " + list +
          " have no texts for the decoder: it reads those that their own network writes for them, "
          "greedily"};
}

/// A run of one task's samples through one network, in batches that are all at the same block.
class sample_run {
 public:
  /// count: the number of samples, from the first of the file; 0 for all. Texts that they lack are
  /// written by the network of `writer` (with_texts).
  sample_run(const network& net, const std::string& file, index_t count,
             std::unique_ptr<weight_source> weights, const weight_source& writer,
             const std::map<std::string, layer_kind>& kinds, const executor& threads)
      : net_(net),
        samples_(net.open_samples(file)),
        count_(count),
        weights_(std::move(weights)),
        record_(kinds) {
    if (count > samples_->size())
      throw error(file + ": expected at least " + std::to_string(count) + " samples, found " +
                  std::to_string(samples_->size()));
    if (count == 0) count_ = samples_->size();
    check_weights(net, *weights_);
    wrote_texts_ = samples_->lacks_texts();
    samples_ = with_texts(net, writer, std::move(samples_), count_, threads);
    restart();
  }

  /// True if a network wrote the texts of the samples.
  bool wrote_texts() const { return wrote_texts_; }

  /// Returns to the first block.
  void restart() {
    record_.clear();
    states_.clear();
    // Eight samples: the recorded rows of a block stay few, products large.
    constexpr index_t batch = 8;
    for (index_t first = 0; first < count_; first += batch)
      states_.push_back(samples_->load(first, std::min(batch, count_ - first)));
  }

  /// Runs the next block; its statistics replace those of the block before.
  void advance(const executor& threads) {
    record_.clear();
    for (auto& state : states_) net_.run(state.next_block, *weights_, state, &record_, threads);
  }

  const block_recorder& recorded() const { return record_; }

 private:
  const network& net_;
  std::unique_ptr<sample_reader> samples_;
  index_t count_;
  std::unique_ptr<weight_source> weights_;
  bool wrote_texts_ = false;
  std::vector<activations> states_;
  block_recorder record_;
};

/// Samples, one file per task. All experts advance together, block by block, just ahead of the
/// merge.
class sample_statistics final : public merge_statistics {
 public:
  sample_statistics(const network& net, const std::vector<task_file>& files, index_t count,
                    double coefficient, checkpoint_set& set, pool& threads)
      : set_(set), threads_(threads.runner()), blocks_(net.block_count()) {
    for (std::size_t b = 0; b < blocks_; ++b) {
      names_.emplace_back();
      for (const auto& p : net.parameters(b)) {
        block_of_.emplace(p.name, b);
        names_.back().push_back(p.name);
      }
    }
    for (const auto& group : set.groups())
      for (const auto& p : group)
        if (p.kind == layer_kind::linear || p.kind == layer_kind::scale)
          kinds_.emplace(p.name, p.kind);
    for (index_t k = 0; k < std::ssize(set.tasks()); ++k)
      for (const auto& file : files)
        if (file.task == set.tasks()[static_cast<std::size_t>(k)])
          runs_.push_back(std::make_unique<sample_run>(
              net, file.path, count, std::make_unique<expert_weights>(set, k, coefficient),
              expert_weights(set, k, 1), kinds_, threads_));
    // The merge goes in the order of the blocks; parameters of no block come last.
    set.sort_groups([this](const std::string& name) { return rank(name); });
  }

  std::optional<statistics_view<host>> get(index_t k, const parameter_info& p) override {
    const std::size_t block = rank(p.name);
    if (block == blocks_) return std::nullopt;
    if (block + 1 < done_) {  // the next pass over the parameters begins
      for (auto& run : runs_) run->restart();
      done_ = 0;
    }
    for (; done_ <= block; ++done_) {
      if (done_ + 1 < blocks_) prefetch(done_ + 1);
      threads_(std::ssize(runs_), [this](index_t i) {
        runs_[static_cast<std::size_t>(i)]->advance(threads_);
        release_tables(i, done_);
      });
    }
    return runs_[static_cast<std::size_t>(k)]->recorded().find(p.name);
  }

  void release(const parameter_group&) override {}

  std::vector<std::string> notes() const override {
    std::vector<std::string> tasks;
    for (std::size_t k = 0; k < runs_.size(); ++k)
      if (runs_[k]->wrote_texts()) tasks.push_back(set_.tasks()[k]);
    return wrote_texts_sentence(tasks);
  }

 private:
  std::size_t rank(const std::string& name) const {
    const auto found = block_of_.find(name);
    return found == block_of_.end() ? blocks_ : found->second;
  }

  /// Prefetches the next block of every expert.
  void prefetch(std::size_t block) const {
    for (index_t k = 0; k < std::ssize(set_.tasks()); ++k)
      for (const auto& name : names_[block]) set_.expert_file(k).prefetch(name);
  }

  /// Releases tables of embeddings: they are large and merged last. Trimmed parameters are needed
  /// next and stay.
  void release_tables(index_t k, std::size_t block) const {
    for (const auto& name : names_[block])
      if (!kinds_.contains(name)) set_.expert_file(k).release(name);
  }

  const checkpoint_set& set_;
  executor threads_;
  std::size_t blocks_, done_ = 0;
  std::vector<std::vector<std::string>> names_;  // of each block's parameters
  std::map<std::string, std::size_t> block_of_;
  std::map<std::string, layer_kind> kinds_;
  std::vector<std::unique_ptr<sample_run>> runs_;
};

}  // namespace catmerge::harness
