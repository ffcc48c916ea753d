// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/experiment/laboratory.hpp>
#include <iterator>

namespace catmerge::harness {

namespace {

/// Linear layers' drift in shares of the base's: the mean over layers and tasks.
double drift_of(const std::vector<parameter_report>& reports) {
  double sum = 0, count = 0;
  for (const auto& r : reports) {
    if (r.layer.kind != layer_kind::linear) continue;
    for (std::size_t k = 0; k < r.layer.drift.size(); ++k) {
      if (!(r.layer.drift_of_base[k] > 0)) continue;
      sum += r.layer.drift[k] / r.layer.drift_of_base[k];
      count += 1;
    }
  }
  return count > 0 ? sum / count : 0;
}

}  // namespace

study laboratory::comparison() {
  study s;
  s.name = "comparison";
  s.title = "Methods side by side";
  s.note =
      "Test split. What the last column names was chosen on the validation split, for each draw of "
      "samples anew (the column has the first draw's); what it does not name has the method's "
      "default. Before other methods, CAT has lambda 1 and rank 4, and DARE drops half. Alphas are "
      "from the same grid for all (times the number of tasks where a method makes a mean of task "
      "vectors instead of a sum, times 3 where it makes a spectrum of its own). Spread: standard "
      "deviation over draws of samples, for methods that use samples. Drift: how far outputs of "
      "linear layers are from the experts' own, squared, in shares of the base's distance; mean "
      "over layers and tasks.";
  s.rows.push_back(fixed_row("base, not merged", checkpoint_weights(bench_->set().base_file())));
  s.rows.push_back(experts_row());
  s.rows.push_back(at_alpha("Task Arithmetic, alpha 0.4", "task-arithmetic", 0.4));
  s.rows.push_back(at_alpha("CAT, the paper's settings, alpha 0.4", "cat", 0.4));
  if (plan_.methods.empty()) {
    s.rows.push_back(automatic_row("auto", {}));
    s.rows.push_back(automatic_row("auto, the prior alone", {.refit = false}));
  }
  index_t done = 0;
  for (const auto& who : contenders_) {
    terminal_.show("comparing methods", done++, std::ssize(contenders_));
    s.rows.push_back(chosen_row(who));
  }
  return s;
}

study laboratory::ablation() {
  study s;
  s.name = "ablation";
  s.title = "What each trim of CAT is worth";
  s.note =
      "CAT with the lambda and rank that are best on validation; for each row alpha is chosen "
      "again, or 0.4 for all.";
  const std::string spec = cat_spec();
  const struct {
    const char *label, *off;
  } parts[] = {{"all trims", ""},
               {"without linear", "rank=0"},
               {"without scale", "scale-rank=0"},
               {"without shift", "shift-rank=0"},
               {"linear alone", "scale-rank=0,shift-rank=0"},
               {"scale alone", "rank=0,shift-rank=0"},
               {"shift alone", "rank=0,scale-rank=0"},
               {"no trim (Task Arithmetic)", "rank=0,scale-rank=0,shift-rank=0"}};
  index_t done = 0;
  for (const auto& part : parts) {
    terminal_.show("ablation", done++, std::ssize(parts));
    contender less = one_setting(with_settings(spec, part.off));
    less.label = part.label;
    s.rows.push_back(chosen_row(less));
  }
  for (const auto& part : parts) {
    const auto less = with_settings(spec, part.off);
    s.rows.push_back(at_alpha(std::string(part.label) + ", alpha 0.4", less, 0.4));
  }
  return s;
}

table_row laboratory::fixed_row(const std::string& label, const weight_source& weights) {
  table_row row;
  row.label = label;
  row.runs.push_back(bench_->measure(weights, data_split::test));
  row.validation.push_back(average_of(bench_->measure(weights, data_split::validation)));
  return row;
}

table_row laboratory::experts_row() {
  table_row row;
  row.label = "each task's own expert";
  row.runs.push_back(expert_values());
  return row;
}

/// One setting at one alpha, for each draw of samples if the method uses samples.
table_row laboratory::at_alpha(const std::string& label, const std::string& spec, double alpha) {
  const contender who = one_setting(spec);
  table_row row;
  row.label = label;
  row.setting = setting_text(spec, alpha);
  for (index_t seed = 0; seed < draws_of(who, spec); ++seed) {
    const auto known = recorded(plan_.samples, seed);
    any_method m = method_of(who, spec, bench_->set().names());
    if (double* const a = m.find_alpha(); a != nullptr) *a = alpha;
    const auto tau = bench_->merge(m, known, who.importance);
    row.runs.push_back(bench_->test(tau, alpha));
    row.validation.push_back(bench_->validate(tau, {alpha}).front());
    row.drift.push_back(drift_of(bench_->report(m, known, who.importance)));
  }
  return row;
}

/// The merge without labels; its setting is the first draw's alphas.
table_row laboratory::automatic_row(const std::string& label, const automatic_options& options) {
  table_row row;
  row.label = label;
  for (index_t seed = 0; seed < plan_.seeds; ++seed) {
    const auto merged = merge_automatically(plan_.samples, seed, options);
    row.runs.push_back(bench_->test(merged.tau, 1));
    row.without_labels.push_back(average_of(row.runs.back()));
    if (seed > 0) continue;
    for (const auto& curve : merged.curves)
      row.setting += (row.setting.empty() ? "alphas " : ", ") + shortest(curve.choice());
  }
  return row;
}

table_row laboratory::chosen_row(const contender& who) {
  table_row row;
  row.label = who.label;
  for (index_t seed = 0; seed < draws_of(who, who.specs.front()); ++seed) {
    const auto known = recorded(plan_.samples, seed);
    const auto judge = bench_->judge(drawn(plan_.samples, seed));
    const outcome o = bench_->choose(who, plan_.alphas, known, &judge);
    row.runs.push_back(o.test);
    row.without_labels.push_back(average_of(o.without_labels));
    row.validation.push_back(o.validation);
    any_method m = method_of(who, o.spec, bench_->set().names());
    if (double* const a = m.find_alpha(); a != nullptr) *a = o.alpha;
    row.drift.push_back(drift_of(bench_->report(m, known, who.importance)));
    if (seed == 0) {
      row.setting = setting_text(
          o.spec, who.unit == alpha_unit::none ? std::nullopt : std::optional(o.alpha));
      row.seconds = o.seconds;
      best_[who.label] = o.spec;
    }
    if (o.at_edge)
      notes_.insert(who.label +
                    ": the alpha that was chosen is the smallest or largest of its grid; another "
                    "grid may do better.");
  }
  return row;
}

}  // namespace catmerge::harness
