// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/experiment/bench.hpp>
#include <harness/experiment/results.hpp>
#include <harness/progress.hpp>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// What experiments vary, and how often they repeat.
struct experiment_plan {
  std::vector<double> alphas = {0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5};
  std::vector<double> lambdas = {1, 5};
  std::vector<index_t> ranks = {1, 4};
  index_t samples = 3;  ///< per task
  index_t most_samples = 64;
  index_t seeds = 3;                 ///< draws of samples
  std::vector<std::string> methods;  ///< names of those compared; all if empty
};

/// The studies of one family. Everything that a method lets be chosen is chosen on the validation
/// split, from grids that are alike for all; the test split is only reported.
class laboratory {
 public:
  laboratory(const family& files, const model::name_rules& rules, const merge_policy& policy,
             const network& net, experiment_plan plan, pool& threads, progress& terminal)
      : files_(files),
        rules_(rules),
        policy_(policy),
        net_(net),
        plan_(std::move(plan)),
        threads_(threads),
        terminal_(terminal) {
    for (const auto& t : files.tasks) measured_.push_back(std::make_unique<measured_task>(net, t));
    all_tasks_.resize(files.tasks.size());
    std::iota(all_tasks_.begin(), all_tasks_.end(), std::size_t{0});
    bench_ = make_bench(all_tasks_);
    make_contenders();
  }

  std::vector<std::string> tasks() const {
    std::vector<std::string> names;
    for (const auto& t : files_.tasks) names.push_back(t.name);
    return names;
  }
  std::vector<std::string> metrics() const {
    std::vector<std::string> names;
    for (const auto& m : measured_) names.push_back(m->test.metric());
    return names;
  }

  /// Sentences on what could not be done, or should be known of what was.
  std::vector<std::string> notes() const { return {notes_.begin(), notes_.end()}; }

  study comparison() {
    study s;
    s.name = "comparison";
    s.title = "Methods side by side";
    s.note =
        "Test split. Every setting of every method was chosen on the validation split, alphas from "
        "the "
        "same grid for all (times the number of tasks where a method makes a mean of task vectors "
        "instead of a sum, times 3 where it makes a spectrum of its own). Spread: standard "
        "deviation "
        "over draws of samples, for methods that use samples. Drift: how far outputs of linear "
        "layers "
        "are from the experts' own, squared, in shares of the base's distance; mean over layers "
        "and "
        "tasks.";
    s.rows.push_back(fixed_row("base, not merged", checkpoint_weights(bench_->set().base_file())));
    s.rows.push_back(experts_row());
    const contender sum{"", {"task-arithmetic"}, {}, 1, nullptr};
    const contender paper{"", {"cat"}, {}, 1, nullptr};
    s.rows.push_back(at_alpha("Task Arithmetic, alpha 0.4", sum, "task-arithmetic", 0.4));
    s.rows.push_back(at_alpha("CAT, the paper's settings, alpha 0.4", paper, "cat", 0.4));
    index_t done = 0;
    for (const auto& who : contenders_) {
      terminal_.show("comparing methods", done++, std::ssize(contenders_));
      s.rows.push_back(chosen_row(who));
    }
    return s;
  }

  /// CAT without each of its trims, and with each alone.
  study ablation() {
    study s;
    s.name = "ablation";
    s.title = "What each trim of CAT is worth";
    s.note =
        "CAT with the lambda and rank that are best on validation; for each row alpha is chosen "
        "again, "
        "or 0.4 for all.";
    const std::string spec = cat_spec();
    const struct {
      const char *label, *off;
    } parts[] = {{"all trims", ""},
                 {"without linear", ",rank=0"},
                 {"without scale", ",scale-rank=0"},
                 {"without shift", ",shift-rank=0"},
                 {"linear alone", ",scale-rank=0,shift-rank=0"},
                 {"scale alone", ",rank=0,shift-rank=0"},
                 {"shift alone", ",rank=0,scale-rank=0"},
                 {"no trim (Task Arithmetic)", ",rank=0,scale-rank=0,shift-rank=0"}};
    index_t done = 0;
    for (const auto& part : parts) {
      terminal_.show("ablation", done++, std::ssize(parts));
      const std::string less = with_settings(spec, part.off);
      s.rows.push_back(chosen_row({part.label, {less}, {}, 1, nullptr}));
    }
    for (const auto& part : parts)
      s.rows.push_back(at_alpha(std::string(part.label) + ", alpha 0.4", {"", {}, {}, 1, nullptr},
                                with_settings(spec, part.off), 0.4));
    return s;
  }

  study samples() {
    study s = curves(
        "samples", "Samples per task",
        "Average on test; alpha chosen on validation for each point, other settings as in the "
        "comparison. Each draw takes other samples; where all are taken there is one draw.",
        "samples per task", "log");
    const auto panel = of_panel({"cat", "lot", "regmean"});
    for (const auto& who : panel) s.curves.push_back({who.label, {}});
    std::vector<index_t> counts;
    for (const index_t n : {1, 2, 3, 8, 24, 64})
      if (n <= plan_.most_samples && n <= fewest_samples()) counts.push_back(n);
    index_t done = 0;
    for (const index_t n : counts) {
      terminal_.show("samples per task", done++, std::ssize(counts));
      const index_t draws = n == fewest_samples() ? 1 : plan_.seeds;
      for (std::size_t w = 0; w < panel.size(); ++w) {
        curve_point point{n, {}, ""};
        for (index_t seed = 0; seed < draws; ++seed)
          add_run(point, bench_->choose(panel[w], plan_.alphas, recorded(n, seed)));
        s.curves[w].points.push_back(std::move(point));
      }
    }
    return s;
  }

  study alpha() {
    study s = curves(
        "alpha", "Alpha",
        "Average on test over the coefficient of the merged task vector, in units of the method "
        "(1 where it sums task vectors, the number of tasks where it averages, 3 for spectra), "
        "other settings as in the comparison; the first draw of samples.",
        "alpha", "linear");
    const auto panel = of_panel({"task-arithmetic", "cat", "ties", "lot", "tsv-m", "iso-c"});
    const std::vector<double> grid = {0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1};
    index_t done = 0;
    for (const auto& who : panel) {
      terminal_.show("alphas", done++, std::ssize(panel));
      curve line{who.label, {}};
      const auto tau = bench_->merge(method_of(who, who.specs.front()), recorded(plan_.samples, 0),
                                     who.importance);
      for (const double a : grid)
        line.points.push_back({a,
                               {mean_of(bench_->test(tau, a * who.unit))},
                               setting_text(who.specs.front(), a * who.unit)});
      s.curves.push_back(std::move(line));
    }
    return s;
  }

  study lambda() {
    return of_setting("lambda", "Lambda of CAT's linear trims", "lambda", "linear",
                      {"0", "0.5", "1", "2", "5", "20"});
  }

  study rank() {
    return of_setting("rank", "Directions removed per task", "rank", "linear",
                      {"0", "1", "2", "4", "8", "16"});
  }

  /// The order in which CAT trims by the other tasks.
  study order() {
    study s = curves(
        "order", "The order of the tasks",
        "CAT trims by one task after the other, or jointly, which has no order; average on test, "
        "alpha chosen on validation.",
        "order", "names");
    const std::string spec = cat_spec();
    s.curves = {{"sequential", {}}, {"joint", {}}};
    constexpr index_t orders = 5;
    for (index_t o = 0; o < orders; ++o) {
      terminal_.show("orders of the tasks", o, orders);
      std::vector<std::size_t> tasks;
      for (const index_t t : permutation(std::ssize(all_tasks_), static_cast<std::uint64_t>(o)))
        tasks.push_back(static_cast<std::size_t>(t));
      const auto own = make_bench(tasks);
      const std::string name = o == 0 ? "as given" : "order " + std::to_string(o);
      for (std::size_t c = 0; c < 2; ++c) {
        if (c == 1 && o > 0) break;  // the same for every order
        const contender who{
            "", {with_settings(spec, c == 1 ? ",order=joint" : "")}, {}, 1, nullptr};
        curve_point point{name, {}, ""};
        for (index_t seed = 0; seed < plan_.seeds; ++seed)
          add_run(point, own->choose(who, plan_.alphas, recorded(plan_.samples, seed, tasks)));
        s.curves[c].points.push_back(std::move(point));
      }
    }
    return s;
  }

  /// Samples of few classes only.
  study classes() {
    study s =
        curves("classes", "Samples of few classes",
               "As many samples per task in every column, from so many of its classes (tasks whose "
               "labels are no classes: any samples); average on test, alpha chosen on validation.",
               "classes", "names");
    constexpr index_t count = 4;
    const auto panel = of_panel({"cat", "lot"});
    for (const auto& who : panel) s.curves.push_back({who.label, {}});
    for (const index_t classes : {index_t{1}, index_t{2}}) {
      terminal_.show("samples of few classes", classes, 5);
      for (std::size_t w = 0; w < panel.size(); ++w) {
        curve_point point{std::to_string(classes), {}, ""};
        for (index_t seed = 0; seed < plan_.seeds; ++seed)
          add_run(point, bench_->choose(panel[w], plan_.alphas, of_classes(count, classes, seed)));
        s.curves[w].points.push_back(std::move(point));
      }
    }
    for (std::size_t w = 0; w < panel.size(); ++w) {
      curve_point point{"any", {}, ""};
      for (index_t seed = 0; seed < plan_.seeds; ++seed)
        add_run(point, bench_->choose(panel[w], plan_.alphas, recorded(count, seed)));
      s.curves[w].points.push_back(std::move(point));
    }
    return s;
  }

  /// How many tasks are merged.
  study task_count() {
    study s = curves(
        "tasks", "The number of tasks",
        "Average on test over the tasks that are merged, in percent of what their own experts "
        "reach; alpha chosen on validation, other settings as in the comparison. Each run takes "
        "other tasks; with all of them there is one.",
        "tasks", "linear");
    const auto panel = of_panel({"average", "task-arithmetic", "cat", "lot", "tsv-m"});
    for (const auto& who : panel) s.curves.push_back({who.label, {}});
    const auto alone = expert_values();
    for (index_t k = 2; k <= std::ssize(all_tasks_); ++k) {
      terminal_.show("numbers of tasks", k - 2, std::ssize(all_tasks_) - 1);
      const index_t runs = k == std::ssize(all_tasks_) ? 1 : plan_.seeds;
      for (std::size_t w = 0; w < panel.size(); ++w) s.curves[w].points.push_back({k, {}, ""});
      for (index_t seed = 0; seed < runs; ++seed) {
        std::vector<std::size_t> tasks;
        for (const index_t t :
             drawn_samples(std::ssize(all_tasks_), k, static_cast<std::uint64_t>(seed)))
          tasks.push_back(static_cast<std::size_t>(t));
        const auto own = make_bench(tasks);
        const auto known = recorded(plan_.samples, seed, tasks);
        double reach = 0;
        for (const std::size_t t : tasks) reach += alone[t] / static_cast<double>(tasks.size());
        for (std::size_t w = 0; w < panel.size(); ++w) {
          contender who = panel[w];
          if (who.unit == static_cast<double>(all_tasks_.size())) who.unit = static_cast<double>(k);
          outcome o = own->choose(who, plan_.alphas, known);
          curve_point& point = s.curves[w].points.back();
          point.runs.push_back(100 * o.average() / reach);
          if (point.setting.empty()) point.setting = setting_text(o.spec, o.alpha);
        }
      }
    }
    return s;
  }

 private:
  std::unique_ptr<bench> make_bench(const std::vector<std::size_t>& tasks) {
    return std::make_unique<bench>(files_, tasks, rules_, policy_, net_, measured_, threads_);
  }

  static double mean_of(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }

  static study curves(const char* name, const char* title, const char* note, const char* x_label,
                      const char* x_scale) {
    study s;
    s.name = name;
    s.title = title;
    s.note = note;
    s.x_label = x_label;
    s.x_scale = x_scale;
    return s;
  }

  /// "cat:lambda=1" with more of them; a key that is there already takes the later value.
  static std::string with_settings(const std::string& spec, const std::string& more) {
    const std::string name = name_in_spec(spec);
    std::string rest = spec.size() > name.size() ? spec.substr(name.size() + 1) : "";
    std::vector<std::pair<std::string, std::string>> list;
    std::string all = rest + more;
    for (std::size_t begin = 0; begin < all.size();) {
      const std::size_t comma = std::min(all.find(',', begin), all.size());
      const std::string part = all.substr(begin, comma - begin);
      begin = comma + 1;
      if (part.empty()) continue;
      const std::string key = part.substr(0, part.find('='));
      bool known = false;
      for (auto& [other, text] : list)
        if (other == key) {
          text = part;
          known = true;
        }
      if (!known) list.emplace_back(key, part);
    }
    std::string text = name;
    for (std::size_t i = 0; i < list.size(); ++i) text += (i == 0 ? ":" : ",") + list[i].second;
    return text;
  }

  std::string setting_text(const std::string& spec, std::optional<double> alpha) const {
    const std::string name = name_in_spec(spec);
    std::string text = spec.size() > name.size() ? spec.substr(name.size() + 1) : "";
    if (alpha) {
      char buffer[32];
      std::snprintf(buffer, sizeof buffer, "alpha=%.4g", *alpha);
      text += (text.empty() ? "" : ",") + std::string(buffer);
    }
    for (std::size_t at = 0; (at = text.find(',', at)) != std::string::npos; at += 2)
      text.replace(at, 1, ", ");
    return text;
  }

  void add_run(curve_point& point, const outcome& o) const {
    point.runs.push_back(o.average());
    if (point.setting.empty()) point.setting = setting_text(o.spec, o.alpha);
  }

  index_t fewest_samples() const {
    index_t n = plan_.most_samples;
    for (const auto& m : measured_) n = std::min(n, m->samples->size());
    return n;
  }

  /// What a draw of samples says; made once. tasks: which, in which order; all by default.
  std::vector<recorded_inputs> recorded(index_t count, index_t seed) {
    return recorded(count, seed, all_tasks_);
  }
  std::vector<recorded_inputs> recorded(index_t count, index_t seed,
                                        const std::vector<std::size_t>& tasks) {
    auto& known = recorded_[{count, seed}];
    if (known.empty()) {
      std::vector<std::vector<index_t>> chosen;
      for (const auto& m : measured_)
        chosen.push_back(
            drawn_samples(m->samples->size(), count, static_cast<std::uint64_t>(seed)));
      known = bench_->record(chosen);
    }
    std::vector<recorded_inputs> list;
    for (const std::size_t t : tasks) list.push_back(known[t]);
    return list;
  }

  std::vector<recorded_inputs> of_classes(index_t count, index_t classes, index_t seed) {
    std::vector<std::vector<index_t>> chosen;
    for (std::size_t t = 0; t < measured_.size(); ++t) {
      const auto n = measured_[t]->samples->size();
      const task_labels labels(files_.tasks[t].samples, n);
      const auto own = static_cast<std::uint64_t>(seed);
      chosen.push_back(labels.are_classes()
                           ? samples_of_classes(labels.classes(measured_[t]->head.outputs()), count,
                                                classes, own)
                           : drawn_samples(n, count, own));
    }
    return bench_->record(chosen);
  }

  /// Linear layers' drift in shares of the base's: the mean over layers and tasks.
  static double drift_of(const std::vector<parameter_report>& reports) {
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

  table_row fixed_row(const std::string& label, const weight_source& weights) {
    table_row row;
    row.label = label;
    row.runs.push_back(bench_->measure(weights, &measured_task::test));
    row.validation.push_back(mean_of(bench_->measure(weights, &measured_task::validation)));
    return row;
  }

  std::vector<double> expert_values() {
    std::vector<double> values(all_tasks_.size());
    threads_.runner()(bench_->size(), [&](index_t k) {
      const auto t = static_cast<std::size_t>(k);
      values[t] = bench_->task(k).test(net_, expert_weights(bench_->set(), k, 1));
    });
    return values;
  }

  table_row experts_row() {
    table_row row;
    row.label = "each task's own expert";
    row.runs.push_back(expert_values());
    return row;
  }

  /// One setting at one alpha, for each draw of samples if it uses any.
  table_row at_alpha(const std::string& label, const contender& who, const std::string& spec,
                     double alpha) {
    table_row row;
    row.label = label;
    row.setting = setting_text(spec, alpha);
    for (index_t seed = 0; seed < draws_of(who, spec); ++seed) {
      const auto known = recorded(plan_.samples, seed);
      any_method m = method_of(who, spec);
      if (double* const a = m.find_alpha(); a != nullptr) *a = alpha;
      const auto tau = bench_->merge(m, known, who.importance);
      row.runs.push_back(bench_->test(tau, alpha));
      row.validation.push_back(bench_->validate(tau, {alpha}).front());
      row.drift.push_back(drift_of(bench_->report(m, known, who.importance)));
    }
    return row;
  }

  table_row chosen_row(const contender& who) {
    table_row row;
    row.label = who.label;
    for (index_t seed = 0; seed < draws_of(who, who.specs.front()); ++seed) {
      const auto known = recorded(plan_.samples, seed);
      const outcome o = bench_->choose(who, plan_.alphas, known);
      row.runs.push_back(o.test);
      row.validation.push_back(o.validation);
      any_method m = method_of(who, o.spec);
      if (double* const a = m.find_alpha(); a != nullptr) *a = o.alpha;
      row.drift.push_back(drift_of(bench_->report(m, known, who.importance)));
      if (seed == 0) {
        row.setting = setting_text(o.spec, who.unit == 0 ? std::nullopt : std::optional(o.alpha));
        row.seconds = o.seconds;
        best_[who.label] = o.spec;
      }
      if (o.at_edge)
        notes_.insert(who.label +
                      ": the alpha that was chosen is the smallest or largest of its "
                      "grid; another grid may do better.");
    }
    return row;
  }

  /// Methods that use no samples have one run.
  index_t draws_of(const contender& who, const std::string& spec) const {
    const any_method m = method_of(who, spec);
    const bool uses =
        m.needs_statistics(layer_kind::linear) || m.needs_statistics(layer_kind::scale);
    return uses ? plan_.seeds : 1;
  }

  /// CAT as it was chosen, without alpha: that of the comparison if there was one.
  std::string cat_spec() {
    const auto found = best_.find("CAT");
    if (found != best_.end()) return found->second;
    for (const auto& who : contenders_)
      if (who.label == "CAT")
        return best_[who.label] =
                   bench_->choose(who, plan_.alphas, recorded(plan_.samples, 0)).spec;
    return best_["CAT"] = "cat";
  }

  /// Contenders of these methods, each with the one setting that was chosen for it.
  std::vector<contender> of_panel(const std::vector<std::string>& names) {
    std::vector<contender> panel;
    for (const auto& who : contenders_) {
      const std::string name = name_in_spec(who.specs.front());
      if (!who.before.empty() || std::find(names.begin(), names.end(), name) == names.end())
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

  study of_setting(const char* key, const char* title, const char* x_label, const char* x_scale,
                   const std::vector<std::string>& values) {
    study s = curves(
        key, title,
        "CAT, other settings as in the comparison; average on test, alpha chosen on validation "
        "for each point, or 0.4 for all.",
        x_label, x_scale);
    const std::string spec = cat_spec();
    s.curves = {{"alpha chosen", {}}, {"alpha 0.4", {}}};
    index_t done = 0;
    for (const auto& value : values) {
      terminal_.show(std::string("values of ") + key, done++, std::ssize(values));
      const std::string own = with_settings(spec, std::string(",") + key + "=" + value);
      const contender who{"", {own}, {}, 1, nullptr};
      const double x = std::stod(value);
      curve_point chosen{x, {}, ""}, fixed{x, {}, setting_text(own, 0.4)};
      for (index_t seed = 0; seed < plan_.seeds; ++seed) {
        const auto known = recorded(plan_.samples, seed);
        add_run(chosen, bench_->choose(who, plan_.alphas, known));
        fixed.runs.push_back(mean_of(bench_->test(bench_->merge(method_of(who, own), known), 0.4)));
      }
      s.curves[0].points.push_back(std::move(chosen));
      s.curves[1].points.push_back(std::move(fixed));
    }
    return s;
  }

  void make_contenders();

  const family& files_;
  const model::name_rules& rules_;
  const merge_policy& policy_;
  const network& net_;
  experiment_plan plan_;
  pool& threads_;
  progress& terminal_;
  std::vector<std::unique_ptr<measured_task>> measured_;
  std::vector<std::size_t> all_tasks_;
  std::unique_ptr<bench> bench_;
  std::vector<contender> contenders_;
  std::map<std::pair<index_t, index_t>, std::vector<recorded_inputs>> recorded_;  // count, seed
  std::map<std::string, std::string> best_;  // the setting chosen for a contender, by label
  std::set<std::string> notes_;
};

}  // namespace catmerge::harness
