// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <harness/calibration/choice_interval.hpp>
#include <harness/merge/choice_account.hpp>
#include <harness/methods/catalogue.hpp>

namespace catmerge::harness {

namespace {

/// "0.61".
std::string short_number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

std::string mean_text(const std::vector<double>& of_tasks) {
  return short_number(average_of(of_tasks));
}

/// "8 samples a task".
std::string samples_text(index_t count) {
  return std::to_string(count) + (count == 1 ? " sample" : " samples") + " a task";
}

/// "0.3 to 0.4 in 95 of 100 resamplings of the samples".
std::string in_words(const choice_interval& range) {
  return shortest(range.low) + " to " + shortest(range.high) +
         " in 95 of 100 resamplings of the samples";
}

/// The curve as JSON, with the interval of its choice; warns, naming the setting, if the samples
/// leave the choice open.
json told(const distance_curve& curve, const std::optional<choice_interval>& range,
          const std::string& setting, const std::vector<std::string>& tasks,
          choice_account& account) {
  json j;
  j["values"] = curve.settings;
  j["chosen"] = curve.choice();
  if (range) j["interval"] = {range->low, range->high};
  if (range && range->is_wide())
    account.warnings.push_back(setting + " is not determined by these samples: " +
                               in_words(*range) + "; more samples narrow it");
  std::vector<double> means;
  for (std::size_t i = 0; i < curve.settings.size(); ++i) means.push_back(curve.mean(i));
  j["distance"] = means;
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    std::vector<double> own;
    for (const auto& of_samples : curve.distances) own.push_back(average_of(of_samples[k]));
    j["of_tasks"].push_back({{"task", tasks[k]}, {"distance", own}});
  }
  return j;
}

/// Adds a curve over alpha to the account, and the warnings about it. Returns its interval.
std::optional<choice_interval> add_curve(const distance_curve& curve, const std::string& method,
                                         const std::string& setting,
                                         const std::vector<std::string>& tasks,
                                         choice_account& account) {
  const auto range = interval_of(curve);
  if (curve.at_edge())
    account.warnings.push_back(setting + ": " + shortest(curve.choice()) +
                               " is the smallest or largest value that was tried");
  json j = told(curve, range, setting, tasks, account);
  j["method"] = method;
  account.numbers["alpha"].push_back(std::move(j));
  return range;
}

const std::string& label_of_prior(std::size_t i) {
  return method_entry_of(prior_methods()[i].first).label;
}

void add_numbers(const automatic_merge& merged, const std::vector<std::string>& tasks,
                 choice_account& account) {
  json& j = account.numbers;
  if (merged.tables_averaged || !merged.of_other.empty())
    j["token_tables"] = merged.tables_averaged ? "mean" : "matrix";
  if (merged.gain) j["gain"] = *merged.gain;
  if (merged.gain_curve)
    j["gain_by_cross_fitting"] = told(*merged.gain_curve, interval_of(*merged.gain_curve),
                                      "the factor of the prior", tasks, account);
  if (merged.curves.empty())
    j["alpha_not_chosen"] = merged.alphas;
  else
    j["distance"] = {
        {"base", merged.of_base}, {"prior", merged.of_prior}, {"merged", merged.of_result}};
  if (!merged.confidence.empty()) j["confidence"] = merged.confidence;
  j["refitted"] = merged.refitted;
}

std::string sentences_of(const automatic_merge& merged, index_t fewest) {
  const bool judged = !merged.curves.empty();
  std::string text = "The prior is the mean of ";
  for (std::size_t i = 0; i < merged.alphas.size(); ++i)
    text += std::string(i == 0                          ? ""
                        : i + 1 == merged.alphas.size() ? " and "
                                                        : ", ") +
            label_of_prior(i) + " (" + shortest(merged.alphas[i]) + ")";
  text += judged ? ", each at the alpha whose outputs are closest to the experts' own on " +
                       samples_text(fewest) + ". "
                 : ", with alphas that were not chosen. ";
  if (!merged.of_other.empty())
    text += std::string("Tables of tokens are ") +
            (merged.tables_averaged ? "the mean of the experts" : "merged as matrices") +
            ", which is closer to the experts' outputs (" + mean_text(merged.of_prior) + " for " +
            mean_text(merged.of_other) + "). ";
  if (merged.gain)
    text += std::to_string(merged.refitted.size()) + " linear layers were refitted around " +
            shortest(*merged.gain) + " times the prior" +
            (merged.gain_curve ? ", a factor that was chosen on left-out samples." : ".");
  else
    text += "Nothing was refitted.";
  if (judged)
    text +=
        " Distance of the outputs from the experts' (0: the same): " + mean_text(merged.of_base) +
        " for the base, " + mean_text(merged.of_prior) + " for the prior" +
        (merged.gain ? ", " + mean_text(merged.of_result) + " for the merged network." : ".");
  return text;
}

/// "TIES, density=0.2"; the label alone without settings.
std::string label_of(const std::string& label, const std::string& text) {
  const std::string given = settings_in(text).text();
  return label + (given.empty() ? "" : ", " + given);
}

/// Adds the choice among several settings, each at its alpha; warns if the samples leave it open.
void add_settings(const std::vector<tried_setting>& tried, const distance_curve& over_settings,
                  const std::string& label, choice_account& account) {
  const std::string chosen = settings_in(tried[over_settings.best()].text).text();
  json& j = account.numbers["settings"];
  for (std::size_t i = 0; i < tried.size(); ++i)
    j["tried"].push_back({{"settings", settings_in(tried[i].text).text()},
                          {"alpha", tried[i].curve.choice()},
                          {"distance", over_settings.mean(i)}});
  j["chosen"] = chosen;
  account.sentences = "Of " + std::to_string(tried.size()) + " settings of " + label + " " +
                      chosen + " has the outputs closest to the experts'";
  const auto share = share_of_choice(over_settings);
  if (share) {
    j["share_of_resamplings"] = *share;
    account.sentences += ", in " + std::to_string(std::lround(100 * *share)) +
                         " of 100 resamplings of the samples, too";
    if (*share < 0.5)
      account.warnings.push_back("the settings " + chosen +
                                 " are not determined by these samples: other draws of them choose "
                                 "others; more samples would decide");
  }
  account.sentences += '.';
}

}  // namespace

choice_account account_of(const automatic_merge& merged, const std::vector<std::string>& tasks) {
  choice_account account;
  const index_t fewest = *std::min_element(merged.samples.begin(), merged.samples.end());
  account.numbers["samples"] = merged.samples;
  for (std::size_t i = 0; i < merged.curves.size(); ++i)
    add_curve(merged.curves[i], label_of_prior(i), "the alpha of " + label_of_prior(i), tasks,
              account);
  add_numbers(merged, tasks, account);
  account.sentences = sentences_of(merged, fewest);
  if (merged.curves.empty())
    account.warnings.emplace_back(
        "outputs were not compared with the experts', because there are no heads: --head NAME=H, "
        "for every expert, lets the samples choose the alphas");
  if (fewest < automatic_options::enough)
    account.warnings.push_back(
        "with " + samples_text(fewest) + " the merge depends on which samples they are: " +
        std::to_string(automatic_options::enough) + " or more make it steady");
  for (std::size_t k = 0; k < merged.of_result.size(); ++k)
    if (merged.of_result[k] > merged.of_base[k])
      account.warnings.push_back("the merged network's outputs for '" + tasks[k] +
                                 "' are farther from the expert's than the base's are (" +
                                 short_number(merged.of_result[k]) + " for " +
                                 short_number(merged.of_base[k]) + ")");
  return account;
}

choice_account account_of(const std::vector<tried_setting>& tried, const std::string& label,
                          const std::vector<index_t>& samples,
                          const std::vector<std::string>& tasks) {
  choice_account account;
  account.numbers["samples"] = samples;
  distance_curve over_settings;  // each at its alpha
  for (const auto& [text, curve] : tried) {
    over_settings.settings.push_back(static_cast<double>(over_settings.settings.size()));
    over_settings.distances.push_back(curve.distances[curve.best()]);
  }
  const std::size_t best = over_settings.best();
  const auto& chosen = tried[best].curve;
  if (tried.size() > 1) add_settings(tried, over_settings, label, account);
  if (chosen.settings.size() == 1) return account;
  const auto range = add_curve(chosen, label_of(label, tried[best].text), "alpha", tasks, account);
  account.sentences += std::string(account.sentences.empty() ? "" : " ") + "Alpha is " +
                       shortest(chosen.choice()) + (range ? " (" + in_words(*range) + ")" : "") +
                       ": there the outputs are closest to the experts' own (distance " +
                       short_number(chosen.mean(chosen.best())) + ").";
  return account;
}

}  // namespace catmerge::harness
