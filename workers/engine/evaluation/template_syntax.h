// A template as a tree: what template_syntax.cc makes of the text and template.cc walks.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "workers/engine/evaluation/template.h"

namespace quantd::engine {

struct Expression {
  enum class Kind {
    kLiteral,      // value
    kName,         // text
    kList,         // arguments
    kDict,         // arguments: key, value, key, value, ...
    kAttribute,    // arguments[0].text
    kIndex,        // arguments[0][arguments[1]]
    kSlice,        // arguments[0][1:2:3]; absent ones are null literals
    kCall,         // arguments[0](the others, named): a function or a method
    kFilter,       // arguments[0] | text(the others, named)
    kTest,         // arguments[0] is text(the others); negated
    kUnary,        // text is "not" or "-"
    kBinary,       // text is the operator
    kConditional,  // arguments: then, condition, else
  };
  Kind kind = Kind::kLiteral;
  std::string text;
  nlohmann::json value;
  std::vector<Expression> arguments;
  std::vector<std::pair<std::string, Expression>> named;
  bool negated = false;
};

struct Statement {
  enum class Kind { kText, kOutput, kIf, kFor, kSet };
  struct Branch {
    Expression condition;  // A literal true for else.
    std::vector<Statement> body;
  };
  Kind kind = Kind::kText;
  int line = 0;
  std::string text;                        // kText; kSet: the attribute of a namespace, or empty.
  std::vector<std::string> names;          // kFor, kSet.
  Expression expression;                   // kOutput; kFor: what is walked; kSet: the value.
  std::vector<Expression> filter;          // kFor: at most one condition.
  std::vector<Branch> branches;            // kIf.
  std::vector<Statement> body, otherwise;  // kFor; kSet: a block's body.
};

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view text,
                                                     const TemplateOptions& options);

}  // namespace quantd::engine
