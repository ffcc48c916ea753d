// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <harness/experiment/laboratory.hpp>
#include <harness/features/expert_weights.hpp>
#include <harness/networks/writing/written_samples.hpp>
#include <limits>
#include <map>

namespace catmerge::harness {

laboratory::laboratory(const family& files, const model::name_rules& rules,
                       const merge_policy& policy, const network& net, experiment_plan plan,
                       pool& threads, progress& terminal)
    : files_(files),
      rules_(rules),
      policy_(policy),
      net_(net),
      plan_(std::move(plan)),
      threads_(threads),
      terminal_(terminal) {
  std::sort(plan_.alphas.begin(), plan_.alphas.end());
  const word_pieces pieces(files.base);
  for (const auto& t : files.tasks) {
    measured_.push_back(std::make_unique<measured_task>(net, pieces, t));
    for (const auto* split : {&measured_.back()->validation, &measured_.back()->test})
      if (split->metric() == "cider" && !pieces.is_known())
        notes_.insert(std::string(tokens_are_words) + ".");
  }
  all_tasks_.resize(files.tasks.size());
  std::iota(all_tasks_.begin(), all_tasks_.end(), std::size_t{0});
  bench_ = make_bench(all_tasks_);
  std::vector<std::string> without_texts;
  for (std::size_t k = 0; k < measured_.size(); ++k) {
    auto& samples = measured_[k]->samples;
    if (samples->lacks_texts()) without_texts.push_back(files.tasks[k].name);
    const expert_weights expert(bench_->set(), static_cast<index_t>(k), 1);
    samples = with_texts(net_, expert, std::move(samples), 0, threads_.runner());
  }
  for (const auto& sentence : wrote_texts_sentence(without_texts)) notes_.insert(sentence + ".");
  make_contenders();
}

std::vector<std::string> laboratory::tasks() const {
  std::vector<std::string> names;
  for (const auto& t : files_.tasks) names.push_back(t.name);
  return names;
}

std::vector<std::string> laboratory::metrics() const {
  std::vector<std::string> names;
  for (const auto& m : measured_) names.push_back(m->test.metric());
  return names;
}

std::vector<std::string> laboratory::notes() const {
  std::vector<std::string> list(notes_.begin(), notes_.end());
  index_t broken = 0;
  for (const auto& m : measured_) broken += m->validation.not_finite() + m->test.not_finite();
  if (broken > 0)
    list.push_back(std::to_string(broken) +
                   " measurements were of networks whose outputs are not finite: they count as 0.");
  return list;
}

std::unique_ptr<bench> laboratory::make_bench(const std::vector<std::size_t>& tasks) {
  return std::make_unique<bench>(files_, tasks, rules_, policy_, net_, measured_, threads_);
}

std::vector<recorded_inputs> laboratory::recorded(index_t count, index_t seed) {
  return recorded(count, seed, all_tasks_);
}

std::vector<recorded_inputs> laboratory::recorded(index_t count, index_t seed,
                                                  const std::vector<std::size_t>& tasks) {
  auto& known = recorded_[{count, seed}];
  if (known.empty()) known = bench_->record(drawn(count, seed));
  std::vector<recorded_inputs> list;
  for (const std::size_t t : tasks) list.push_back(known[t]);
  return list;
}

task_inputs laboratory::drawn(index_t count, index_t seed) const {
  task_inputs inputs;
  for (const auto& m : measured_)
    inputs.push_back(load_samples(
        *m->samples, drawn_samples(m->samples->size(), count, static_cast<std::uint64_t>(seed))));
  return inputs;
}

automatic_merge laboratory::merge_automatically(index_t count, index_t seed,
                                                const automatic_options& options) {
  return bench_->merge_automatically(drawn(count, seed), plan_.alphas, options);
}

/// The classes of a task's samples; none if it has values or next tokens instead.
std::vector<std::int64_t> laboratory::classes_of(std::size_t t) const {
  if (net_.output() == output_kind::next_token) return {};
  const task_labels labels(files_.tasks[t].samples, measured_[t]->samples->size());
  return labels.are_classes() ? labels.classes(measured_[t]->head.outputs())
                              : std::vector<std::int64_t>();
}

task_inputs laboratory::drawn_of_classes(index_t count, index_t classes, index_t seed) const {
  task_inputs inputs;
  for (std::size_t t = 0; t < measured_.size(); ++t) {
    const auto own = static_cast<std::uint64_t>(seed);
    const auto labels = classes_of(t);
    inputs.push_back(load_samples(*measured_[t]->samples,
                                  labels.empty()
                                      ? drawn_samples(measured_[t]->samples->size(), count, own)
                                      : samples_of_classes(labels, count, classes, own)));
  }
  return inputs;
}

index_t laboratory::fewest_samples() const {
  index_t n = std::numeric_limits<index_t>::max();
  for (const auto& m : measured_) n = std::min(n, m->samples->size());
  return n;
}

/// The size of the largest class of samples of a task, the smallest over all tasks with classes.
index_t laboratory::samples_of_a_class() const {
  index_t fewest = fewest_samples();
  for (std::size_t t = 0; t < measured_.size(); ++t) {
    const auto labels = classes_of(t);
    if (labels.empty()) continue;
    std::map<std::int64_t, index_t> counts;
    index_t most = 0;
    for (const auto label : labels) most = std::max(most, ++counts[label]);
    fewest = std::min(fewest, most);
  }
  return fewest;
}

std::vector<double> laboratory::expert_values() {
  std::vector<double> values(all_tasks_.size());
  threads_.runner()(bench_->size(), [&](index_t k) {
    const auto t = static_cast<std::size_t>(k);
    values[t] = bench_->task(k).test(net_, expert_weights(bench_->set(), k, 1));
  });
  return values;
}

/// Methods that use no samples have one run.
index_t laboratory::draws_of(const contender& who, const std::string& spec) const {
  const any_method m = method_of(who, spec);
  const bool uses = m.needs_statistics(layer_kind::linear) || m.needs_statistics(layer_kind::scale);
  return uses ? plan_.seeds : 1;
}

/// CAT's chosen setting, without alpha: the comparison's if there was one.
std::string laboratory::cat_spec() {
  const std::string& label = method_entry_of("cat").label;
  const auto found = best_.find(label);
  if (found != best_.end()) return found->second;
  for (const auto& who : contenders_)
    if (who.label == label)
      return best_[label] = bench_->choose(who, plan_.alphas, recorded(plan_.samples, 0)).spec;
  return best_[label] = "cat";
}

/// Contenders of these methods, each with its chosen setting.
std::vector<contender> laboratory::of_panel(const std::vector<std::string>& names) {
  std::vector<contender> panel;
  for (const auto& who : contenders_) {
    const std::string name = name_in_spec(who.specs.front());
    if (!who.before.empty() || !who.after.empty() ||
        std::find(names.begin(), names.end(), name) == names.end())
      continue;
    contender one = who;
    const auto found = best_.find(who.label);
    if (found == best_.end() && who.specs.size() > 1)
      best_[who.label] = bench_->choose(who, plan_.alphas, recorded(plan_.samples, 0)).spec;
    one.specs = {best_.contains(who.label) ? best_[who.label] : who.specs.front()};
    panel.push_back(std::move(one));
  }
  return panel;
}

std::string setting_text(const std::string& spec, std::optional<double> alpha) {
  const std::string name = name_in_spec(spec);
  std::string text = spec.size() > name.size() ? spec.substr(name.size() + 1) : "";
  if (alpha) text += (text.empty() ? "" : ",") + ("alpha=" + shortest(*alpha));
  for (std::size_t at = 0; (at = text.find(',', at)) != std::string::npos; at += 2)
    text.replace(at, 1, ", ");
  return text;
}

}  // namespace catmerge::harness
