// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
// Pages made of reports: their numbers are the report's, their markup is sound whatever the report
// holds, they name nothing outside themselves. With CATMERGE_PAGES=FOLDER, pages are left there for
// tests/python/test_page.py to open in a browser.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <harness/report/page/experiment_page.hpp>
#include <harness/report/page/merge_page.hpp>
#include <random>
#include <set>

using catmerge::harness::experiment_page;
using catmerge::harness::json;
using catmerge::harness::merge_page;
namespace page = catmerge::harness::page;

namespace {

json fixture(const std::string& name) {
  std::ifstream in(std::string(CATMERGE_FIXTURES) + "/page/" + name);
  return json::parse(in);
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

/// Leaves a page for the browser.
void keep(const std::string& name, const std::string& html) {
  const char* folder = std::getenv("CATMERGE_PAGES");
  if (folder == nullptr || *folder == '\0') return;
  std::filesystem::create_directories(folder);
  std::ofstream out(std::filesystem::path(folder) / (name + ".html"), std::ios::binary);
  out << html;
  CHECK(out.flush());
}

// ---------------------------------------------------------------- markup

/// Reads markup as strictly as XML is read: every tag closed in order, every attribute quoted and
/// named once, every & and < of text written as an entity, valid UTF-8 without control characters.
class markup {
 public:
  /// The first fault; empty if there is none.
  static std::string fault(const std::string& html) {
    markup m(html);
    return m.read() ? "" : m.fault_ + ": " + html.substr(m.at_, 80);
  }

 private:
  explicit markup(const std::string& html) : s_(html) {}

  bool fail(const std::string& what) {
    fault_ = what;
    return false;
  }

  bool starts(const std::string& with) const { return s_.compare(at_, with.size(), with) == 0; }

  bool read() {
    for (std::size_t i = 0; i < s_.size();) {
      const std::size_t begin = i;
      if (page::detail::next_code_point(s_, i) == page::replacement &&
          s_.compare(begin, 3, "\uFFFD") != 0)
        return fail("invalid UTF-8");
      const auto c = static_cast<unsigned char>(s_[begin]);
      if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) return fail("a control character");
    }
    if (!starts("<!DOCTYPE html>")) return fail("no document type");
    at_ = 15;
    while (at_ < s_.size())
      if (!(s_[at_] == '<' ? tag() : character())) return false;
    if (!open_.empty()) return fail("<" + open_.back() + "> is not closed");
    for (const auto& target : targets_)
      if (ids_.find(target) == ids_.end()) return fail("no element has the id " + target);
    return true;
  }

  bool character() {
    if (s_[at_] == '>') return fail("a > in text");
    if (s_[at_] == '&' && !entity()) return fail("an & that begins no entity");
    if (open_.empty() && s_[at_] != '\n') return fail("text outside of all elements");
    ++at_;
    return true;
  }

  bool entity() const {
    for (const char* name : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"})
      if (starts(name)) return true;
    return false;
  }

  std::string word() {
    const std::size_t begin = at_;
    while (at_ < s_.size() && (std::isalnum(static_cast<unsigned char>(s_[at_])) != 0 ||
                               s_[at_] == '-' || s_[at_] == ':'))
      ++at_;
    return s_.substr(begin, at_ - begin);
  }

  bool tag() {
    if (starts("</")) {
      at_ += 2;
      const std::string name = word();
      if (open_.empty() || open_.back() != name) return fail("</" + name + "> closes nothing");
      open_.pop_back();
      return s_[at_] == '>' ? (++at_, true) : fail("a closing tag that does not end");
    }
    ++at_;
    const std::string name = word();
    if (name.empty()) return fail("a < in text");
    if (name == "script" || name == "iframe" || name == "img" || name == "link" || name == "object")
      return fail("an element that loads or runs something");
    std::set<std::string> seen;
    while (at_ < s_.size() && s_[at_] == ' ') {
      ++at_;
      if (!attribute(seen)) return false;
    }
    if (starts("/>")) return at_ += 2, true;
    if (at_ >= s_.size() || s_[at_] != '>') return fail("a tag that does not end");
    ++at_;
    if (name == "meta") return true;
    if (name == "style") {
      at_ = s_.find("</style>", at_);
      if (at_ == std::string::npos) return at_ = 0, fail("a style sheet without an end");
      at_ += 8;
      return true;
    }
    open_.push_back(name);
    return true;
  }

  bool attribute(std::set<std::string>& seen) {
    const std::string name = word();
    if (name.empty() || !seen.insert(name).second) return fail("an attribute twice, or none");
    if (!starts("=\"")) return fail("an attribute without quotes");
    at_ += 2;
    const std::size_t begin = at_;
    for (; at_ < s_.size() && s_[at_] != '"'; ++at_) {
      if (s_[at_] == '<' || s_[at_] == '>') return fail("a tag in an attribute");
      if (s_[at_] == '&' && !entity()) return fail("an & in an attribute that begins no entity");
    }
    const std::string value = s_.substr(begin, at_ - begin);
    if (name.compare(0, 2, "on") == 0 || name == "src") return fail("a handler or a source");
    if (name == "id" && !ids_.insert(value).second) return fail("an id twice");
    if (name == "href" && (value.empty() || value[0] != '#')) return fail("a link to elsewhere");
    if (name == "href") targets_.push_back(value.substr(1));
    if (at_ >= s_.size()) return fail("an attribute that does not end");
    ++at_;
    return true;
  }

  const std::string& s_;
  std::size_t at_ = 0;
  std::vector<std::string> open_, targets_;
  std::set<std::string> ids_;
  std::string fault_;
};

/// A page as pages have to be, whatever they show.
void check_sound(const std::string& html) {
  CHECK(markup::fault(html) == "");
  CHECK_FALSE(contains(html, "nan"));
  CHECK_FALSE(contains(html, "inf\""));
  CHECK_FALSE(contains(html, "url("));
  CHECK_FALSE(contains(html, "@import"));
}

/// The text of a page: without tags, tips and style sheet.
std::string text_of(const std::string& html) {
  std::string text;
  bool skip = false;
  for (std::size_t i = html.find("<body>"); i < html.size(); ++i) {
    if (html.compare(i, 7, "<title>") == 0) skip = true;
    if (html[i] == '<') {
      const std::size_t end = html.find('>', i);
      if (html.compare(i, 8, "</title>") == 0) skip = false;
      i = end;
      text += ' ';
    } else if (!skip) {
      text += html[i];
    }
  }
  return text;
}

// ---------------------------------------------------------------- reports

/// A report as a merge of a transformer writes it: 6 linear weights, 2 scales and 8 shifts a layer.
json synthetic(std::size_t tasks, std::size_t layers, bool optional_keys = true) {
  std::mt19937_64 random(20260301);
  const auto uniform = [&](double low, double high) {
    return low + (high - low) * static_cast<double>(random() >> 11U) * 0x1p-53;
  };
  json report;
  report["catmerge"]["settings"] = {{"method", "cat"}, {"alpha", 0.3},    {"rank", 4},
                                    {"lambda", 5.0},   {"scale_rank", 4}, {"shift_rank", 4}};
  for (std::size_t k = 0; k < tasks; ++k) report["tasks"].push_back("task " + std::to_string(k));
  report["warnings"] = json::array();
  const auto add = [&](const std::string& name, const std::string& kind, double size) {
    json p;
    p["name"] = name;
    p["kind"] = kind;
    p["trimmed"] = true;
    for (std::size_t k = 0; k < tasks; ++k) {
      p["rows"].push_back(771.0);
      p["task_vector_norm"].push_back(uniform(0.1, 2));
      p["energy_removed"].push_back(uniform(0, 0.2));
      p["deviation"].push_back(size * uniform(0, 0.05));
      if (optional_keys) {
        p["drift"].push_back(size * uniform(0.5, 1.2));
        p["drift_scale"].push_back(size * uniform(0.8, 1.1));
      }
      json before = json::array(), after = json::array(), overlap = json::array();
      for (std::size_t i = 0; i < tasks; ++i) {
        const double shift = size * (i == k ? uniform(0.8, 1.2) : uniform(0.2, 1.6));
        before.push_back(shift);
        after.push_back(shift * uniform(0.6, 1));
        overlap.push_back(i == k ? 1 : uniform(0, 0.6));
      }
      p["shifts_before"].push_back(before);
      p["shifts_after"].push_back(after);
      p["overlap"].push_back(overlap);
      json removed;
      removed["protects"] = report["tasks"][k];
      if (kind == "linear") {
        for (int e = 0; e < 16; ++e) {
          const double value = size * (std::exp(-0.3 * e) - 0.1);
          if (e < 4) removed["eigenvalues"].push_back(value);
          if (optional_keys) removed["spectrum"].push_back(value);
        }
      } else {
        removed["coordinates"] = {1, 2, 3, 5};
      }
      p["removed"].push_back(removed);
    }
    report["parameters"].push_back(p);
  };
  for (std::size_t l = 0; l < layers; ++l) {
    const std::string block = "vision_model.encoder.layers." + std::to_string(l) + ".";
    for (const char* role : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.out_proj", "mlp.fc1", "mlp.fc2"}) {
      add(block + role + ".weight", "linear", std::pow(10, uniform(0, 4)));
      add(block + role + ".bias", "shift", 0.01);
    }
    for (const char* role : {"layer_norm1", "layer_norm2"}) {
      add(block + role + ".weight", "scale", 1);
      add(block + role + ".bias", "shift", 0.01);
    }
  }
  return report;
}

const std::vector<std::string>& hostile_names() {
  static const std::vector<std::string> names = {
      "<script>alert('1')</script>",
      "\" onload=\"alert(1)",
      "'><b>bold</b>",
      "\xff\xfe not \xc3 UTF-8 \xed\xa0\x80",
      std::string(400, 'w') + "x",
      "many words that have no end " + std::string(200, ' ') + "and spaces",
      "&amp; &lt;",
      std::string("zero\0inside", 11),
      "\u202Ereversed",
      "",
      "\u65E5\u672C\u8A9E\u306E\u8AB2\u984C\u540D\u524D",
      "]]></title></style>"};
  return names;
}

/// The same report with other names of tasks.
json renamed(json report, const std::vector<std::string>& names) {
  const json old = report["tasks"];
  for (std::size_t k = 0; k < old.size(); ++k) report["tasks"][k] = names[k % names.size()];
  for (auto& p : report["parameters"])
    if (p.contains("removed"))
      for (auto& r : p["removed"])
        for (std::size_t k = 0; k < old.size(); ++k)
          if (r["protects"] == old[k]) {
            r["protects"] = report["tasks"][k];
            break;
          }
  return report;
}

}  // namespace

// ---------------------------------------------------------------- the checker itself

TEST_CASE("the checker of markup finds what is wrong") {
  const std::string head = "<!DOCTYPE html>\n";
  CHECK(markup::fault(head + "<p class=\"a\">1 &lt; 2 <b>x</b></p>\n") == "");
  for (const char* bad :
       {"<p><b></p></b>", "<p>", "<p></p></p>", "<p>1 < 2</p>", "<p>a & b</p>", "<p>a > b</p>",
        "<p class=a></p>", "<p class=\"a\" class=\"b\"></p>", "<p class=\"<b>\"></p>",
        "<p>\xff</p>", "<p>\x01</p>", "<script></script>", "<p onclick=\"x\"></p>",
        "<img src=\"x\"/>", "<a href=\"https://example.org\">x</a>", "<a href=\"#nowhere\">x</a>",
        "<p id=\"a\"></p><p id=\"a\"></p>"}) {
    CAPTURE(bad);
    CHECK(markup::fault(head + bad) != "");
  }
}

// ---------------------------------------------------------------- text

TEST_CASE("text is escaped, and what is no text is replaced") {
  CHECK(page::escaped("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#39;");
  CHECK(page::escaped("\u00E4 \u65E5 \U0001F600") == "\u00E4 \u65E5 \U0001F600");
  // A stray byte, a cut sequence, an overlong slash, a surrogate, beyond U+10FFFF.
  CHECK(page::escaped("a\xff z") == "a\uFFFD z");
  CHECK(page::escaped("\xe6\x97") == "\uFFFD\uFFFD");
  CHECK(page::escaped("\xc0\xaf") == "\uFFFD\uFFFD");
  CHECK(page::escaped("\xed\xa0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(page::escaped("\xf4\x90\x80\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(page::escaped(std::string("\0\x1b\x7f", 3)) == "\uFFFD\uFFFD\uFFFD");
  CHECK(page::escaped("\u202Eabc\u2066") == "\uFFFDabc\uFFFD");
}

TEST_CASE("every valid code point survives, and no other bytes do") {
  // All two-byte strings: what comes back is valid, and the same if it was valid text.
  for (unsigned a = 0; a < 256; ++a)
    for (unsigned b = 0; b < 256; ++b) {
      const std::string s = {static_cast<char>(a), static_cast<char>(b)};
      const std::string once = page::shortened(s, 1e9, 1);
      REQUIRE(page::shortened(once, 1e9, 1) == once);
      const bool plain = a >= 0x20 && a < 0x7F && b >= 0x20 && b < 0x7F;
      const bool two = a >= 0xC3 && a <= 0xDF && b >= 0x80 && b <= 0xBF;
      if (plain || two) REQUIRE(once == s);
      if (a >= 0x80 && !two && a != 0xC2) REQUIRE(contains(once, "\uFFFD"));
    }
}

TEST_CASE("numbers as text") {
  CHECK(page::shown(0.9749) == "0.975");
  CHECK(page::shown(1234.5) == "1234");  // the nearest even number, as to_chars rounds
  CHECK(page::shown(12345678) == "1.23e+07");
  CHECK(page::shown(-0.00001234) == "\u22121.23e-05");
  CHECK(page::shown(0) == "0");
  CHECK(page::fixed(-0.001, 1) == "0.0");
  CHECK(page::fixed(-2.25, 2) == "\u22122.25");
  CHECK(page::percent(0.0472) == "4.7\u202F%");
  CHECK(page::percent(0.25) == "25\u202F%");
  CHECK(page::percent(1e-9) == "0\u202F%");
  CHECK(page::ratio(1.571) == "1.57");
  CHECK(page::ratio(15.71) == "15.7");
  CHECK(page::ratio(157.1) == "157");
  CHECK(page::shortest(0.4) == "0.4");
  CHECK(page::shortest(5) == "5");
  for (const double bad : {page::unknown, HUGE_VAL, -HUGE_VAL}) {
    CHECK(page::shown(bad) == page::dash);
    CHECK(page::fixed(bad, 2) == page::dash);
    CHECK(page::percent(bad) == page::dash);
    CHECK(page::ratio(bad) == page::dash);
  }
  CHECK(page::duration(12.3) == "12.3 s");
  CHECK(page::duration(754) == "12 min 34 s");
  CHECK(page::duration(7380) == "2 h 3 min");
  CHECK(page::memory(471e6) == "471 MB");
  CHECK(page::memory(1.2e9) == "1.20 GB");
}

TEST_CASE("text is taken to be as wide as browsers draw it in DejaVu Sans") {
  // Chromium's own measurements at 11 pixels, rounded to hundredths.
  const double rounding = 0.005;
  CHECK(page::text_width("'><b>bold</b>", 11) >= 90.53 - rounding);
  CHECK(page::text_width("'><b>b\u2026d</b>", 11) >= 91.75 - rounding);
  CHECK(page::text_width("0.0", 11) >= 17.49 - rounding);
}

TEST_CASE("shortened text fits, keeps both ends, and is left alone where it fits") {
  const std::string name = "vision_model.encoder.layers.11.self_attn.q_proj.weight";
  CHECK(page::shortened(name, page::text_width(name, 11), 11) == name);
  for (double width = 20; width < 300; width += 7) {
    const std::string s = page::shortened(name, width, 11);
    CHECK(page::text_width(s, 11) <= width + 0.02);
    CHECK(s[0] == 'v');
    if (width > 40) CHECK(s.back() == 't');
    CHECK(contains(s, "\u2026"));
  }
}

TEST_CASE("axes hold all values between round ticks") {
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 2000; ++trial) {
    const double scale = std::pow(10, static_cast<double>(random() % 40) - 20);
    page::range r;
    r.add((static_cast<double>(random() % 2000) - 1000) * scale);
    r.add((static_cast<double>(random() % 2000) - 1000) * scale);
    const page::axis a(r, 10, 110, 5);
    REQUIRE(a.ticks().size() >= 2);
    REQUIRE(a.ticks().size() <= 8);  // five steps, and one more at either end
    REQUIRE(a.ticks().front() <= r.low + 1e-6 * (r.high - r.low));
    REQUIRE(a.ticks().back() >= r.high - 1e-6 * (r.high - r.low));
    REQUIRE(a(a.ticks().front()) == doctest::Approx(10));
    REQUIRE(a(a.ticks().back()) == doctest::Approx(110));
  }
  const auto log = page::axis::logarithmic({16, 1, 4, 4}, 0, 100);
  CHECK(log(1) == doctest::Approx(0));
  CHECK(log(4) == doctest::Approx(50));
  CHECK(log(16) == doctest::Approx(100));
  CHECK(log.ticks() == std::vector<double>{1, 4, 16});
}

TEST_CASE("blocks by their names") {
  const page::block_name deep("visual.transformer.resblocks.11.attn.in_proj_weight");
  CHECK(deep.family == "visual.transformer.resblocks.#");
  CHECK(deep.number == "11");
  CHECK(deep.role == "attn.in_proj_weight");
  const page::block_name two("layer3.0.conv1.weight");
  CHECK(two.family == "layer#.#");
  CHECK(two.number == "3.0");
  for (const char* none : {"head.weight", "", "...", "a.b2.c", "layers.7"})
    CHECK(page::block_name(none).block.empty());

  std::vector<page::block_name> names;
  for (const int b : {10, 2, 1, 9}) names.emplace_back("h." + std::to_string(b) + ".w");
  names.emplace_back("alone.0.w");
  const auto lists = page::block_lists(names);
  REQUIRE(lists.size() == 1);
  CHECK(lists[0].numbers == std::vector<std::string>{"1", "2", "9", "10"});
  CHECK(lists[0].position("h.9") == 2);
}

// ---------------------------------------------------------------- a merge's numbers

TEST_CASE("a merge: the numbers are those of the report") {
  const json report = fixture("merge.json");
  const std::string html = merge_page(report);
  check_sound(html);
  keep("merge", html);
  const std::string text = text_of(html);
  // Two linear weights, own shifts of 3 and 100 in the mean. What cars does to dtd:
  //   before (2/3 + 300/100) / (4/3 + 100/100) = 1.571, after (1/3 + 150/100) / (7/3) = 0.786;
  // what dtd does to cars:
  //   before (1/3 + 50/100) / (2/3 + 100/100) = 0.5, after (0.5/3 + 25/100) / (5/3) = 0.25.
  CHECK(contains(html, "<title>what cars does to dtd: 1.57</title>"));
  CHECK(contains(html, "<title>what cars does to dtd: 0.786</title>"));
  CHECK(contains(html, "<title>what dtd does to cars: 0.500</title>"));
  CHECK(contains(html, "<title>what dtd does to cars: 0.250</title>"));
  CHECK(contains(html, "<title>what cars does to dtd: 50\u202F%</title>"));
  CHECK(contains(html, ">1.57</text>"));
  CHECK(contains(html, ">0.79</text>"));
  CHECK(contains(html, "1.57 \u2192 0.79</text>"));
  // Deviation of dtd: (0.4/3 + 3/100) / (7/3) = 0.07.
  CHECK(contains(html, "<title>dtd: 7.0\u202F%</title>"));
  // The level, over both tasks: (3.667 + 0.833) / (2.333 + 1.667) = 1.125, and 0.5625 after it.
  const page::merge_data data = page::read_merge(report);
  CHECK(page::conflict_level(data.measured("linear"), 2, page::moment::before) ==
        doctest::Approx(1.125).epsilon(1e-12));
  CHECK(contains(text, "after the trim 0.56 times: 50\u202F% of the conflict was removed"));
  CHECK(contains(text, "gave up 7.0\u202F% of its own shift"));
  // One parameter, over its own shifts: (300 + 50) / (100 + 100).
  CHECK(contains(html, "<title>block 1, before: 1.75</title>"));
  CHECK(contains(html, "<title>block 1, after: 0.875</title>"));
  CHECK(contains(text, "1.5 \u00B7 cars \u2192 dtd"));
  // Drift of dtd: scales of 3 and 100 in the mean, (3/3 + 80/100) / (4/3 + 100/100) = 0.771.
  CHECK(contains(html, "<title>dtd: 0.771</title>"));
  CHECK(contains(html, "<title>cars, block 1: 1.20</title>"));
  // Spectra, overlap, norms, run, evaluation.
  CHECK(contains(html, "<title>eigenvalue 2, removed: 2.25</title>"));
  CHECK(contains(html, "<title>eigenvalue 3, kept: 0.500</title>"));
  CHECK(contains(html, "<title>eigenvalue 5, kept: \u22123.00</title>"));
  CHECK(contains(html, "<title>protecting dtd and cars: 0.350</title>"));
  CHECK(contains(text, page::shown(std::sqrt(9 + 9 + 0.25 + 0.04))));
  for (const char* part : {"12.3 s", "471 MB", "catmerge 0.1.0", "2025-03-01", "67.88", "70.17"})
    CHECK(contains(text, part));
}

TEST_CASE("a merge: no layer drowns another, whatever the size of its features") {
  json report = fixture("merge.json");
  const auto maps = [](const json& r) {
    return page::conflict_maps(page::read_merge(r), "linear");
  };
  const std::string before = maps(report);
  CHECK(contains(before, "1.57"));
  for (const char* key : {"shifts_before", "shifts_after"})
    for (auto& row : report["parameters"][1][key])
      for (auto& value : row) value = value.get<double>() * 1e9;
  CHECK(maps(report) == before);
  // A sum without weights would show the second layer alone: 300 / 100.
  CHECK_FALSE(contains(before, "3.00"));
}

TEST_CASE("a merge: warnings, and what was cut short") {
  json report = fixture("merge.json");
  std::string text = text_of(merge_page(report));
  // The report says the first itself: once is enough.
  CHECK(contains(
      text, "have no features and were merged by the sum of the task vectors: model.head.weight"));
  CHECK_FALSE(contains(text, "had no statistics"));
  CHECK(contains(text, "trimmed to zero"));
  CHECK(contains(text, "model.norm.bias of cars"));
  CHECK(contains(text, "fewer than 2 directions were removed in 2 of 4 cases"));
  CHECK(contains(text, "fewer than 4 coordinates were removed in 1 of 2 cases"));
  CHECK(contains(text, "none at all in 1:"));

  report["warnings"] = json::array();
  CHECK(contains(text_of(merge_page(report)), "1 parameter had no statistics"));
  // Other ranks for some parameters: what was asked for is not one number.
  report["catmerge"]["settings"]["set"] = {"*fc*:rank=1"};
  CHECK_FALSE(contains(text_of(merge_page(report)), "fewer than"));

  report["parameters"][0]["shifts_after"][0][1] = nullptr;
  report["parameters"][1]["deviation"][0] = HUGE_VAL;
  text = text_of(merge_page(report));
  CHECK(contains(text, "not finite, or missing, stand in the report of 2 parameters"));
  CHECK(contains(text, "model.layers.0.fc.weight, model.layers.1.fc.weight"));
}

TEST_CASE("a merge: every optional key may be absent") {
  const json whole = fixture("merge.json");
  const auto check_without = [&](const std::string& key, const char* gone) {
    CAPTURE(key);
    json report = whole;
    report.erase(key);
    for (auto& p : report["parameters"]) {
      p.erase(key);
      if (p.contains("removed"))
        for (auto& r : p["removed"]) r.erase(key);
    }
    const std::string html = merge_page(report);
    check_sound(html);
    CHECK(contains(merge_page(whole), gone));
    CHECK_FALSE(contains(html, gone));
    keep("without-" + key, html);
  };
  check_without("catmerge", "merged by CAT</h1>");
  check_without("run", "Peak memory");
  check_without("evaluation", "id=\"evaluation\"");
  check_without("drift", "id=\"drift\"");
  check_without("spectrum", ", kept: ");
  check_without("removed", "id=\"spectra\"");
  check_without("overlap", "id=\"overlap\"");
  check_without("shifts_before", "id=\"conflict\"");
  check_without("parameters", "id=\"all\"");

  json report = synthetic(7, 4, false);
  const std::string html = merge_page(report);
  check_sound(html);
  CHECK(contains(html, "what lies to the right of the cut is not known"));
  keep("no-optional-keys", html);
}

TEST_CASE("a merge: methods that trim nothing") {
  json report = synthetic(5, 3);
  report["catmerge"]["settings"] = {{"method", "ties"}, {"lambda", 1}};
  CHECK(contains(merge_page(report), "merged by ties</h1>"));  // an older report
  report["catmerge"]["label"] = "TIES";
  for (auto& p : report["parameters"]) {
    json bare;
    for (const char* key : {"name", "kind", "drift", "drift_scale"}) bare[key] = p[key];
    bare["trimmed"] = false;
    p = bare;
  }
  std::string html = merge_page(report);
  check_sound(html);
  keep("ties-drift", html);
  CHECK(contains(html, "No task vector was trimmed by TIES"));
  CHECK(contains(html, "id=\"drift\""));
  CHECK_FALSE(contains(html, "id=\"conflict\""));
  for (auto& p : report["parameters"]) p.erase("drift"), p.erase("drift_scale");
  html = merge_page(report);
  check_sound(html);
  keep("ties", html);
  CHECK(contains(html, "is not in the report"));
}

TEST_CASE("a merge: one, two and twenty tasks") {
  for (const std::size_t tasks : {1U, 2U, 20U}) {
    CAPTURE(tasks);
    const std::string html = merge_page(synthetic(tasks, 12));
    check_sound(html);
    keep(std::to_string(tasks) + "-tasks", html);
    // Before, after and removed, for three kinds: a cell for every pair and the diagonal.
    const std::size_t cells = tasks > 1 ? 9 * tasks * tasks : 0;
    CHECK(occurrences(html, "<title>what task ") == cells);
    if (tasks == 1) CHECK(contains(html, "There is one task"));
  }
}

TEST_CASE("a merge: eight experts of ViT-L/14 make a page of less than 2 MB") {
  const std::string html = merge_page(synthetic(8, 24));
  check_sound(html);
  keep("vit-l-14", html);
  MESSAGE("bytes: ", html.size());
  CHECK(html.size() < 2'000'000);
  CHECK(contains(html, "Show 384 parameters"));
}

TEST_CASE("a merge: hostile names") {
  json report = renamed(synthetic(hostile_names().size(), 2), hostile_names());
  for (std::size_t p = 0; p < report["parameters"].size(); ++p) {
    auto& parameter = report["parameters"][p];
    parameter["name"] =
        parameter["name"].get<std::string>() + hostile_names()[p % hostile_names().size()];
  }
  report["warnings"] = hostile_names();
  report["catmerge"]["label"] = "<i>own</i>";
  report["catmerge"]["settings"]["method"] = "<b>own</b>";
  report["catmerge"]["settings"]["<i>"] = "</style>";
  const std::string html = merge_page(report);
  check_sound(html);
  keep("hostile", html);
  CHECK(contains(html, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"));
  CHECK(contains(html, "&quot; onload=&quot;alert(1)"));
  CHECK_FALSE(contains(html, "<b>"));
  CHECK_FALSE(contains(html, "<i>"));
  CHECK_FALSE(contains(html, "\u202E"));
}

// ---------------------------------------------------------------- experiments

TEST_CASE("experiments: the numbers are those of the results") {
  const json results = fixture("experiments.json");
  const std::string html = experiment_page(results), text = text_of(html);
  check_sound(html);
  keep("experiments", html);
  for (const auto& row : results["studies"][0]["rows"]) {
    for (const auto& value : row["tasks"])
      CHECK(contains(html, ">" + page::fixed(value["mean"], 2) + " <small>\u00B1 " +
                               page::fixed(value["spread"], 2) + "</small></td>"));
    CHECK(contains(html, ">" + page::fixed(row["average"]["mean"], 2) + "</text>"));
  }
  CHECK(contains(html, "<title>CAT, 16: 78.40 \u00B1 0.20</title>"));
  CHECK(contains(html, "<title>CAT, 1: 77.00 \u00B1 0.50 (rank 4)</title>"));
  CHECK(contains(html, "<title>Task Arithmetic, 0.5: 66.10</title>"));
  CHECK(contains(html, "<title>validation, joint: 78.10 \u00B1 0.20</title>"));
  CHECK(contains(text, "1 point cannot be drawn and stands in the table alone."));
  CHECK(contains(text, "greek, f1"));
  CHECK(contains(text, "spread over 3 seeds"));
  CHECK(contains(text, "12 min 34 s"));
  // In the table of the samples, 2 of RegMean is an empty cell.
  CHECK(contains(html,
                 "<td>2</td><td class=\"wrap\">77.90 \u00B1 0.40</td><td class=\"wrap\"></td>"));
}

TEST_CASE("experiments: many methods, tasks and curves, and hostile names") {
  json results = fixture("experiments.json");
  const auto& names = hostile_names();
  for (std::size_t k = 3; k < 20; ++k) {
    results["tasks"].push_back(names[k % names.size()]);
    results["metrics"].push_back(names[(k + 1) % names.size()]);
  }
  results["family"] = results["notes"][0] = "<script>";
  auto& rows = results["studies"][0]["rows"];
  for (std::size_t r = 0; r < 20; ++r) {
    json row = rows[r % 4];
    row["label"] = row["setting"] = names[r % names.size()];
    for (std::size_t k = 3; k < 20; ++k) row["tasks"].push_back(row["tasks"][k % 3]);
    rows.push_back(row);
  }
  for (std::size_t s = 1; s < 4; ++s) {
    auto& curves = results["studies"][s]["curves"];
    for (std::size_t c = 0; c < 10; ++c) {
      json curve = curves[0];
      curve["label"] = names[c];
      for (auto& p : curve["points"])
        if (p["mean"].is_number()) p["mean"] = p["mean"].get<double>() - 0.3 * double(c);
      curves.push_back(curve);
    }
    results["studies"][s]["title"] = names[s];
    results["studies"][s]["x"]["label"] = names[s + 3];
  }
  for (auto& p : results["studies"][3]["curves"][0]["points"]) p["x"] = names[4];
  results["studies"].push_back({{"type", "<pie>"}, {"name", "unknown"}});
  const std::string html = experiment_page(results);
  check_sound(html);
  keep("experiments-hostile", html);
  CHECK(contains(html, "does not know: &lt;pie&gt;"));
}

// ---------------------------------------------------------------- anything

namespace {

/// Replaces every value of a report, one at a time, by others of all types; pages have to be made
/// and to be sound.
template <class Page>
void check_any_value(const json& whole, const Page& make) {
  const json others = {nullptr,
                       "text",
                       -1,
                       1e308,
                       1e-320,
                       json::array(),
                       json::object(),
                       json::array({json::array({1, 2, 3})}),
                       true};
  const json flat = whole.flatten();
  std::set<std::string> paths;
  for (const auto& [path, value] : flat.items()) {
    // Every prefix of a path is a value, too.
    for (auto at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1))
      paths.insert(path.substr(0, at));
    paths.insert(path);
  }
  std::size_t turn = 0;
  for (const auto& path : paths)
    for (std::size_t i = 0; i < 3; ++i) {
      json report = whole;
      report[json::json_pointer(path)] = others[turn++ % others.size()];
      const std::string html = make(report);
      const std::string fault = markup::fault(html);
      if (!fault.empty() || contains(html, "nan")) {
        CAPTURE(path);
        CAPTURE(fault);
        FAIL("unsound");
      }
    }
  CHECK(paths.size() > 100);
}

}  // namespace

TEST_CASE("a merge: settings that outputs decided") {
  json report = synthetic(3, 2);
  const auto curve = [](const char* method) {
    return json{{"method", method},
                {"values", {0.5, 1.0, 1.5}},
                {"distance", {2.5, 1.25, 3.75}},
                {"chosen", 1.0},
                {"interval", {0.5, 1.0}}};
  };
  report["choice"] = {
      {"summary", "The prior is <b>a mean</b>."},
      {"alpha", {curve("TSV-M"), curve("Iso-C")}},
      {"gain_by_cross_fitting", curve("")},
      {"confidence", {0.875, nullptr, 0.625}},
      {"distance",
       {{"base", {4.5, 5.5, 6.5}}, {"prior", {1.5, 2.5, 3.5}}, {"merged", {0.5, 0.25, 0.75}}}}};
  const std::string html = merge_page(report);
  check_sound(html);
  keep("choice", html);
  CHECK(contains(html, "id=\"choice\""));
  CHECK(contains(html, "The prior is &lt;b&gt;a mean&lt;/b&gt;."));
  CHECK(contains(html, "TSV-M: 1 (0.5 to 1)"));
  CHECK(contains(html, "Distance over alpha"));
  CHECK(contains(html, "on left-out samples"));
  for (const char* number : {"4.5", "0.25", "Iso-C, 1.5: 3.75", "0.875"})
    CHECK(contains(html, number));
  CHECK_FALSE(contains(merge_page(synthetic(3, 2)), "id=\"choice\""));
  check_any_value(report, merge_page);
}

TEST_CASE("any value may be anything") {
  check_any_value(fixture("merge.json"), merge_page);
  check_any_value(fixture("experiments.json"), experiment_page);
  for (const json& report : {json(), json::array(), json::object(), json("text"), json(1.5)}) {
    check_sound(merge_page(report));
    check_sound(experiment_page(report));
  }
}
