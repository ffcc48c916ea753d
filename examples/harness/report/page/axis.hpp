// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <harness/report/page/svg.hpp>

/// Axes: the positions of values and labels.
namespace catmerge::harness::page {

/// The smallest and the largest of the added finite values; 0 and 1 before the first.
struct range {
  double low = 0, high = 1;
  bool empty = true;

  void add(double v) {
    if (!std::isfinite(v)) return;
    low = empty ? v : std::min(low, v);
    high = empty ? v : std::max(high, v);
    empty = false;
  }
};

/// The smallest step of 1, 2 or 5 times a power of ten that cuts `extent` into at most `most`.
inline double round_step(double extent, int most) {
  const double least = extent / most, power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

/// An axis between two pixels; positions are clamped to them.
class axis {
 public:
  /// Linear; the ends are the outermost values, widened to multiples of a round step.
  axis(range values, double from, double to, int most_ticks) : from_(from), to_(to) {
    // Beyond these, differences and steps leave the range of a double.
    constexpr double most = 1e300, least = 1e-300;
    values.low = std::clamp(values.low, -most, most);
    values.high = std::clamp(values.high, -most, most);
    if (values.high - values.low < least) {
      const double around = values.low == 0 ? 1 : std::abs(values.low) * 0.1;
      values.low -= around, values.high += around;
    }
    const double step = round_step(values.high - values.low, most_ticks);
    const double first = std::floor(values.low / step + 1e-9),
                 last = std::ceil(values.high / step - 1e-9);
    low_ = first * step;
    high_ = last * step;
    decimals_ = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
    for (double n = 0; n <= last - first; ++n) ticks_.push_back((first + n) * step);
  }

  /// Linear, from 0 to `last`, without ticks.
  static axis positions(double last, double from, double to) {
    axis a(from, to);
    a.high_ = last;
    return a;
  }

  /// Logarithmic, over positive values, with ticks at the values themselves.
  static axis logarithmic(std::vector<double> values, double from, double to) {
    axis a(from, to);
    a.logarithmic_ = true;
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    a.ticks_ = values;
    a.low_ = values.empty() ? 1 : values.front();
    a.high_ = values.empty() ? 10 : values.back();
    if (a.low_ == a.high_) a.low_ /= 2, a.high_ *= 2;
    return a;
  }

  double operator()(double v) const {
    const double share =
        logarithmic_ ? std::log(v / low_) / std::log(high_ / low_) : (v - low_) / (high_ - low_);
    return from_ + std::clamp(share, 0.0, 1.0) * (to_ - from_);
  }

  const std::vector<double>& ticks() const { return ticks_; }

  std::string label(double tick) const {
    if (logarithmic_) return shown_short(tick);
    if (std::max(std::abs(low_), std::abs(high_)) >= 1e6 || decimals_ > 4) return shown(tick, 2);
    return fixed(tick, decimals_);
  }

 private:
  axis(double from, double to) : from_(from), to_(to) {}

  static std::string shown_short(double v) {
    return v == std::round(v) && std::abs(v) < 1e6 ? fixed(v, 0) : shown(v, 2);
  }

  double from_, to_, low_ = 0, high_ = 1;
  bool logarithmic_ = false;
  int decimals_ = 0;
  std::vector<double> ticks_;
};

/// Labels under a horizontal axis with its baseline at y: every one, every second, every fifth and
/// so on, so that they do not overlap; none beyond 0 or `width`.
inline void label_below(drawing& d, const std::vector<double>& places,
                        const std::vector<std::string>& labels, double y, double width) {
  const auto size = [&](std::size_t i) { return text_width(labels[i], font_size); };
  const auto middle = [&](std::size_t i) {
    return std::max(size(i) / 2, std::min(places[i], width - size(i) / 2));
  };
  const auto fits = [&](std::size_t every) {
    for (std::size_t i = every; i < labels.size(); i += every)
      if (middle(i) - size(i) / 2 < middle(i - every) + size(i - every) / 2 + 4) return false;
    return true;
  };
  std::size_t every = 1;
  for (std::size_t n = 1; !fits(every); ++n)
    every = n % 3 == 2 ? every / 2 * 5 : every * 2;  // 1, 2, 5, 10, 20, 50
  for (std::size_t i = 0; i < labels.size(); i += every)
    d.write(middle(i), y, labels[i], anchor::middle, "dim");
}

}  // namespace catmerge::harness::page
