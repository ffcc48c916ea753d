// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/cat/options.hpp>
#include <functional>
#include <harness/methods/any_method.hpp>
#include <string>
#include <utility>
#include <vector>

/// Methods by name: "ties", "ties:density=0.1,merge=sum".
namespace catmerge::harness {

/// The settings that a text gives, read by those who know what they mean: every read states the
/// default and says what it is, so that the same code reads and documents.
class settings {
 public:
  struct known {
    std::string key, standard, help;
  };

  /// Of "KEY=VALUE,KEY=VALUE". Throws catmerge::error for another form and for a key given twice.
  /// `whose`: named in messages, "ties".
  settings(std::string whose, const std::string& text);

  /// Replaces what was given, or adds to it.
  void set(const settings& more);
  /// "KEY=VALUE,KEY=VALUE" of what was given.
  std::string text() const;

  /// The settings given replace the defaults; what is no number of the range [least, most], no
  /// whole number, or none of the choices is an error that says so.
  void number(const char* key, double& value, const char* help, double least, double most);
  void count(const char* key, index_t& value, const char* help, index_t least = 0);
  void choice(const char* key, std::string& value, const std::vector<std::string>& choices,
              const char* help);
  void flag(const char* key, bool& value, const char* help);

  /// Throws, listing what there is, for a key that nobody has read.
  void require_all_known() const;
  /// What was read.
  const std::vector<known>& documented() const { return known_; }

 private:
  const std::string* find(const char* key, const std::string& standard, const char* help);
  [[noreturn]] void refuse(const std::string& key, const std::string& expected,
                           const std::string& found) const;

  std::string whose_;
  std::vector<std::pair<std::string, std::string>> given_;
  std::vector<known> known_;
};

/// A method or transform of the library as the program offers it.
template <class Any>
struct offered {
  std::string name;
  std::string summary;  ///< with its source
  /// Made with what `s` gives. Options of CAT begin with `defaults`.
  std::function<Any(settings& s, const cat_options& defaults)> make;
};

/// All of them, in the order in which they are listed.
const std::vector<offered<any_method>>& offered_methods();
const std::vector<offered<any_transform>>& offered_transforms();

/// "NAME" or "NAME:KEY=VALUE,...". Throws catmerge::error, listing what there is, for a name that
/// is unknown, and for settings as `settings` does.
any_method parse_method(const std::string& text, const cat_options& defaults = {});
any_transform parse_transform(const std::string& text, const cat_options& defaults = {});

/// The name in such a text.
std::string name_in_spec(const std::string& text);

/// Such a text with more settings, "KEY=VALUE,..."; a key that is there already takes the later
/// value.
std::string with_settings(const std::string& text, const std::string& more);

/// The fewest digits that give back a number.
std::string shortest(double number);

}  // namespace catmerge::harness
