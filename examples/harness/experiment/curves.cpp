// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cmath>
#include <harness/experiment/laboratory.hpp>
#include <harness/experiment/scrambled.hpp>

namespace catmerge::harness {

namespace {

void add_run(curve_point& point, const outcome& o) {
  point.runs.push_back(o.average());
  if (point.setting.empty()) point.setting = setting_text(o.spec, o.alpha);
}

std::vector<std::size_t> positions(const std::vector<index_t>& list) {
  return {list.begin(), list.end()};
}

/// The first `count` different lists among draw(0), draw(1), ...; fewer if a thousand draws give no
/// more.
template <class Draw>
std::vector<std::vector<std::size_t>> different(index_t count, const Draw& draw) {
  std::vector<std::vector<std::size_t>> lists;
  for (std::uint64_t seed = 0; seed < 1000 && std::ssize(lists) < count; ++seed) {
    auto one = positions(draw(seed));
    if (std::find(lists.begin(), lists.end(), one) == lists.end()) lists.push_back(std::move(one));
  }
  return lists;
}

/// The experts' confidence, the mean over tasks with classes, in percent; 0 if none has.
double confidence_of(const automatic_merge& merged) {
  std::vector<double> of_tasks;
  for (const double c : merged.confidence)
    if (!std::isnan(c)) of_tasks.push_back(100 * c);
  return of_tasks.empty() ? 0 : average_of(of_tasks);
}

}  // namespace

study laboratory::samples() {
  study s = study::of_curves(
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

study laboratory::automatic() {
  study s = study::of_curves(
      "auto", "The merge without labels",
      "Average on test over the samples per task. No setting is chosen on labels. The "
      "prior is the mean of TSV-M, Iso-C and Iso-CTS, each at the alpha whose outputs "
      "are closest to the experts' own. The others refit its linear layers around g "
      "times the prior; auto cross-fits g with fewer than 8 samples a task, and has "
      "g = 2 with more. Each draw takes other samples.",
      "samples per task", "log");
  const std::pair<const char*, automatic_options> lines[] = {{"the prior", {.refit = false}},
                                                             {"g = 1", {.gain = 1}},
                                                             {"g = 2", {.gain = 2}},
                                                             {"auto", {}}};
  for (const auto& [label, options] : lines) s.curves.push_back({label, {}});
  std::vector<index_t> counts;
  for (const index_t n : {1, 3, 8, 16, 64})
    if (n <= plan_.most_samples && n <= fewest_samples()) counts.push_back(n);
  index_t done = 0;
  for (const index_t n : counts) {
    terminal_.show("merges without labels", done++, std::ssize(counts));
    const index_t draws = n == fewest_samples() ? 1 : plan_.seeds;
    for (std::size_t i = 0; i < s.curves.size(); ++i) {
      curve_point point{n, {}, ""};
      for (index_t seed = 0; seed < draws; ++seed)
        point.runs.push_back(
            average_of(bench_->test(merge_automatically(n, seed, lines[i].second).tau, 1)));
      s.curves[i].points.push_back(std::move(point));
    }
  }
  return s;
}

study laboratory::alpha() {
  study s = study::of_curves(
      "alpha", "Alpha",
      "Average on test over the coefficient of the merged task vector, in units of the method "
      "(1 where it sums task vectors, the number of tasks where it averages, 3 for spectra), "
      "other settings as in the comparison; the first draw of samples.",
      "alpha", "linear");
  const auto panel = of_panel({"task-arithmetic", "cat", "ties", "lot", "tsv-m", "iso-c"});
  index_t done = 0;
  for (const auto& who : panel) {
    terminal_.show("alphas", done++, std::ssize(panel));
    curve line{who.label, {}};
    const auto tau = bench_->merge(method_of(who, who.specs.front()), recorded(plan_.samples, 0),
                                   who.importance);
    for (const double a : plan_.alphas) {
      const double own = in_units(a, who.unit, bench_->size());
      line.points.push_back(
          {a, {average_of(bench_->test(tau, own))}, setting_text(who.specs.front(), own)});
    }
    s.curves.push_back(std::move(line));
  }
  return s;
}

study laboratory::lambda() {
  return of_setting("lambda", "Lambda of CAT's linear trims", {"0", "0.5", "1", "2", "5", "20"});
}

study laboratory::rank() {
  return of_setting("rank", "Directions removed per task", {"0", "1", "2", "4", "8", "16"});
}

study laboratory::of_setting(const char* key, const char* title,
                             const std::vector<std::string>& values) {
  study s =
      study::of_curves(key, title,
                       "CAT, other settings as in the comparison; average on test, alpha chosen on "
                       "validation for each point, or 0.4 for all.",
                       key, "linear");
  const std::string spec = cat_spec();
  s.curves = {{"alpha chosen", {}}, {"alpha 0.4", {}}};
  index_t done = 0;
  for (const auto& value : values) {
    terminal_.show(std::string("values of ") + key, done++, std::ssize(values));
    const std::string own = with_settings(spec, std::string(key) + "=" + value);
    const contender who = one_setting(own);
    const double x = std::stod(value);
    curve_point chosen{x, {}, ""}, fixed{x, {}, setting_text(own, 0.4)};
    for (index_t seed = 0; seed < plan_.seeds; ++seed) {
      const auto known = recorded(plan_.samples, seed);
      add_run(chosen, bench_->choose(who, plan_.alphas, known));
      fixed.runs.push_back(
          average_of(bench_->test(bench_->merge(method_of(who, own), known), 0.4)));
    }
    s.curves[0].points.push_back(std::move(chosen));
    s.curves[1].points.push_back(std::move(fixed));
  }
  return s;
}

study laboratory::order() {
  study s = study::of_curves(
      "order", "The order of the tasks",
      "CAT trims by one task after the other, or jointly, which has no order; average on test, "
      "alpha chosen on validation.",
      "order", "names");
  const std::string spec = cat_spec();
  s.curves = {{"sequential", {}}, {"joint", {}}};
  const auto orders =
      different(5, [&](std::uint64_t seed) { return permutation(std::ssize(all_tasks_), seed); });
  for (std::size_t o = 0; o < orders.size(); ++o) {
    terminal_.show("orders of the tasks", static_cast<index_t>(o), std::ssize(orders));
    const auto own = make_bench(orders[o]);
    const std::string name = o == 0 ? "as given" : "order " + std::to_string(o);
    for (std::size_t c = 0; c < 2; ++c) {
      if (c == 1 && o > 0) break;  // the same for every order
      const contender who = one_setting(with_settings(spec, c == 1 ? "order=joint" : ""));
      curve_point point{name, {}, ""};
      for (index_t seed = 0; seed < plan_.seeds; ++seed)
        add_run(point, own->choose(who, plan_.alphas, recorded(plan_.samples, seed, orders[o])));
      s.curves[c].points.push_back(std::move(point));
    }
  }
  return s;
}

study laboratory::classes() {
  // At most as many samples as one class has, so that all columns have equally many.
  const index_t count = std::min<index_t>(4, samples_of_a_class());
  study s = study::of_curves(
      "classes", "Samples of few classes",
      std::to_string(count) +
          " samples per task, from so many of its classes (tasks whose labels are no "
          "classes: any samples); average on test, alpha chosen on validation.",
      "classes", "names");
  if (count < 2) {
    notes_.insert(
        "Samples of few classes: left out, because no class has two samples in every task.");
    return s;
  }
  const auto panel = of_panel({"cat", "lot"});
  for (const auto& who : panel) s.curves.push_back({who.label, {}});
  if (is_wanted("auto")) s.curves.push_back({"auto", {}});
  index_t done = 0;
  for (const index_t classes : {1, 2, 0}) {  // 0: any
    terminal_.show("samples of few classes", done++, 3);
    for (auto& line : s.curves)
      line.points.push_back({classes == 0 ? "any" : std::to_string(classes), {}, ""});
    for (index_t seed = 0; seed < plan_.seeds; ++seed)
      add_merges(panel, classes == 0 ? drawn(count, seed) : drawn_of_classes(count, classes, seed),
                 s);
  }
  return s;
}

/// Merges by samples: adds a run to the last point of the curve of each method of the panel, and of
/// auto, the next curve, if it is wanted. Returns what auto did.
std::optional<automatic_merge> laboratory::add_merges(const std::vector<contender>& panel,
                                                      const task_inputs& samples, study& s) {
  const auto known = bench_->record(samples);
  for (std::size_t w = 0; w < panel.size(); ++w)
    add_run(s.curves[w].points.back(), bench_->choose(panel[w], plan_.alphas, known));
  if (!is_wanted("auto")) return std::nullopt;
  auto merged = bench_->merge_automatically(samples, plan_.alphas, {});
  s.curves[panel.size()].points.back().runs.push_back(average_of(bench_->test(merged.tau, 1)));
  return merged;
}

study laboratory::other_samples() {
  study s = study::of_curves(
      "other-samples", "Samples of another distribution",
      "Average on test, for CAT and LOT with alpha chosen on validation, other settings as in the "
      "comparison. Half noise, noise: half or all of the pixels are those of random places of the "
      "same image, of the words random words of all samples. The next task's: each task has the "
      "samples of another. What can be seen without labels: J, the distance of outputs from the "
      "experts' own on the samples, of the base, and of the prior and of auto in percent of that; "
      "the largest probability that experts give a class, in percent.",
      "samples", "names");
  s.quantity = "the quantity that a curve names, else the average";
  const auto panel = of_panel({"cat", "lot"});
  for (const auto& who : panel) s.curves.push_back({who.label, {}});
  if (is_wanted("auto"))
    for (const auto* label : {"auto", "auto, the prior alone", "J of the base", "J of the prior",
                              "J of auto", "confidence"})
      s.curves.push_back({label, {}});
  const struct {
    const char* label;
    double noise;         // the share of exchanged pixels or words
    std::ptrdiff_t next;  // task k has the samples of task k + next
  } kinds[] = {
      {"as drawn", 0, 0}, {"half noise", 0.5, 0}, {"noise", 1, 0}, {"the next task's", 0, 1}};
  index_t done = 0;
  for (const auto& kind : kinds) {
    terminal_.show("samples of other distributions", done++, std::ssize(kinds));
    for (auto& line : s.curves) line.points.push_back({kind.label, {}, ""});
    for (index_t seed = 0; seed < plan_.seeds; ++seed) {
      auto samples =
          scrambled(drawn(plan_.samples, seed), kind.noise, static_cast<std::uint64_t>(seed));
      std::rotate(samples.begin(), samples.begin() + kind.next, samples.end());
      const auto merged = add_merges(panel, samples, s);
      if (!merged) continue;
      const auto prior = bench_->merge_automatically(samples, plan_.alphas, {.refit = false});
      const double of_base = average_of(merged->of_base);
      auto line = s.curves.begin() + std::ssize(panel) + 1;
      for (const double value :
           {average_of(bench_->test(prior.tau, 1)), of_base,
            100 * average_of(merged->of_prior) / of_base,
            100 * average_of(merged->of_result) / of_base, confidence_of(*merged)})
        (line++)->points.back().runs.push_back(value);
    }
  }
  return s;
}

study laboratory::task_count() {
  study s = study::of_curves(
      "tasks", "The number of tasks",
      "Average on test over the tasks that are merged, in percent of what their own "
      "experts reach; alpha chosen on validation, other settings as in the "
      "comparison. Each run takes other tasks; with all of them there is one.",
      "tasks", "linear");
  const auto panel = of_panel({"average", "task-arithmetic", "cat", "lot", "tsv-m"});
  for (const auto& who : panel) s.curves.push_back({who.label, {}});
  const auto alone = expert_values();
  for (index_t k = 2; k <= std::ssize(all_tasks_); ++k) {
    terminal_.show("numbers of tasks", k - 2, std::ssize(all_tasks_) - 1);
    for (std::size_t w = 0; w < panel.size(); ++w) s.curves[w].points.push_back({k, {}, ""});
    const auto subsets = different(plan_.seeds, [&](std::uint64_t seed) {
      auto list = drawn_samples(std::ssize(all_tasks_), k, seed);
      std::sort(list.begin(), list.end());
      return list;
    });
    for (std::size_t run = 0; run < subsets.size(); ++run) {
      const auto& tasks = subsets[run];
      const auto own = make_bench(tasks);
      const auto known = recorded(plan_.samples, static_cast<index_t>(run), tasks);
      double reach = 0;
      for (const std::size_t t : tasks) reach += alone[t] / static_cast<double>(tasks.size());
      for (std::size_t w = 0; w < panel.size(); ++w) {
        const outcome o = own->choose(panel[w], plan_.alphas, known);
        curve_point& point = s.curves[w].points.back();
        point.runs.push_back(100 * o.average() / reach);
        if (point.setting.empty()) point.setting = setting_text(o.spec, o.alpha);
      }
    }
  }
  return s;
}

}  // namespace catmerge::harness
