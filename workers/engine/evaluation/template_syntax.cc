// A recursive-descent parser with Jinja's precedence: or, and, not, comparison, ~ + -, * / // %,
// unary minus, then filters and everything that follows a value.
#include "workers/engine/evaluation/template_syntax.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/evaluation/template_lexer.h"

namespace quantd::engine {
namespace {

using Token = TemplateToken;
using Kind = Expression::Kind;

// Deeper nesting is an attack, not a template.
constexpr int kDepthMax = 100;

Expression Literal(nlohmann::json value) {
  Expression expression;
  expression.value = std::move(value);
  return expression;
}

Expression Make(Kind kind, std::string text, std::vector<Expression> arguments) {
  Expression expression;
  expression.kind = kind;
  expression.text = std::move(text);
  expression.arguments = std::move(arguments);
  return expression;
}

// The tokens of one tag, from left to right.
class ExpressionParser {
 public:
  explicit ExpressionParser(const std::vector<Token>& tokens) : tokens_(tokens) {}

  const Token& Peek() const { return tokens_[at_]; }
  bool AtEnd() const { return Peek().kind == Token::Kind::kEnd; }
  bool Is(absl::string_view text) const {
    return (Peek().kind == Token::Kind::kName || Peek().kind == Token::Kind::kOperator) &&
           Peek().text == text;
  }
  bool Take(absl::string_view text) {
    if (!Is(text)) return false;
    ++at_;
    return true;
  }
  absl::Status Want(absl::string_view text) {
    if (Take(text)) return absl::OkStatus();
    return Unexpected(absl::StrCat("\"", text, "\" is expected"));
  }
  absl::StatusOr<std::string> Name() {
    if (Peek().kind != Token::Kind::kName) return Unexpected("a name is expected");
    return tokens_[at_++].text;
  }
  absl::Status Unexpected(absl::string_view words) const {
    return absl::InvalidArgumentError(
        absl::StrCat(words, " at \"", AtEnd() ? "the end of the tag" : Peek().text, "\""));
  }
  absl::Status End() const { return AtEnd() ? absl::OkStatus() : Unexpected("the tag should end"); }

  absl::StatusOr<Expression> Whole() {
    QD_ASSIGN_OR_RETURN(Expression result, Or());
    if (!Take("if")) return result;
    QD_ASSIGN_OR_RETURN(Expression condition, Or());
    // Without else nothing is printed.
    Expression otherwise = Literal("");
    if (Take("else")) {
      QD_ASSIGN_OR_RETURN(otherwise, Whole());
    }
    return Make(Kind::kConditional, "",
                {std::move(result), std::move(condition), std::move(otherwise)});
  }

  absl::StatusOr<Expression> Or() {
    if (++depth_ > kDepthMax) return absl::InvalidArgumentError("the expression is too deep");
    QD_ASSIGN_OR_RETURN(Expression left, And());
    while (Take("or")) {
      QD_ASSIGN_OR_RETURN(Expression right, And());
      left = Make(Kind::kBinary, "or", {std::move(left), std::move(right)});
    }
    --depth_;
    return left;
  }

 private:
  absl::StatusOr<Expression> And() {
    QD_ASSIGN_OR_RETURN(Expression left, Not());
    while (Take("and")) {
      QD_ASSIGN_OR_RETURN(Expression right, Not());
      left = Make(Kind::kBinary, "and", {std::move(left), std::move(right)});
    }
    return left;
  }

  absl::StatusOr<Expression> Not() {
    if (!Take("not")) return Comparison();
    QD_ASSIGN_OR_RETURN(Expression inner, Not());
    return Make(Kind::kUnary, "not", {std::move(inner)});
  }

  absl::StatusOr<Expression> Comparison() {
    QD_ASSIGN_OR_RETURN(Expression left, Sum());
    for (;;) {
      std::string word;
      for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">", "in"}) {
        if (word.empty() && Take(candidate)) word = candidate;
      }
      if (word.empty() && Is("not")) {
        Take("not");
        QD_RETURN_IF_ERROR(Want("in"));
        word = "not in";
      }
      if (word.empty()) return left;
      QD_ASSIGN_OR_RETURN(Expression right, Sum());
      left = Make(Kind::kBinary, word, {std::move(left), std::move(right)});
    }
  }

  absl::StatusOr<Expression> Sum() {
    QD_ASSIGN_OR_RETURN(Expression left, Product());
    for (;;) {
      const std::string word = Peek().text;
      if (!Take("+") && !Take("-") && !Take("~")) return left;
      QD_ASSIGN_OR_RETURN(Expression right, Product());
      left = Make(Kind::kBinary, word, {std::move(left), std::move(right)});
    }
  }

  absl::StatusOr<Expression> Product() {
    QD_ASSIGN_OR_RETURN(Expression left, Unary());
    for (;;) {
      const std::string word = Peek().text;
      if (!Take("*") && !Take("/") && !Take("//") && !Take("%")) return left;
      QD_ASSIGN_OR_RETURN(Expression right, Unary());
      left = Make(Kind::kBinary, word, {std::move(left), std::move(right)});
    }
  }

  absl::StatusOr<Expression> Unary() {
    if (++depth_ > kDepthMax) return absl::InvalidArgumentError("the expression is too deep");
    const bool minus = Take("-");
    QD_ASSIGN_OR_RETURN(Expression result, minus ? Unary() : Postfix());
    --depth_;
    if (minus) return Make(Kind::kUnary, "-", {std::move(result)});
    return result;
  }

  absl::StatusOr<Expression> Postfix() {
    QD_ASSIGN_OR_RETURN(Expression result, Primary());
    for (;;) {
      if (Take(".")) {
        // choices.text.0 stands for choices.text[0].
        if (Peek().kind == Token::Kind::kNumber) {
          const nlohmann::json index = tokens_[at_++].value;
          result = Make(Kind::kIndex, "", {std::move(result), Literal(index)});
          continue;
        }
        QD_ASSIGN_OR_RETURN(std::string name, Name());
        result = Make(Kind::kAttribute, std::move(name), {std::move(result)});
      } else if (Take("[")) {
        QD_ASSIGN_OR_RETURN(result, Subscript(std::move(result)));
      } else if (Take("(")) {
        Expression call = Make(Kind::kCall, "", {std::move(result)});
        QD_RETURN_IF_ERROR(Arguments(&call));
        result = std::move(call);
      } else if (Take("|")) {
        QD_ASSIGN_OR_RETURN(std::string name, Name());
        Expression filter = Make(Kind::kFilter, std::move(name), {std::move(result)});
        if (Take("(")) QD_RETURN_IF_ERROR(Arguments(&filter));
        result = std::move(filter);
      } else if (Take("is")) {
        QD_ASSIGN_OR_RETURN(result, Test(std::move(result)));
      } else {
        return result;
      }
    }
  }

  absl::StatusOr<Expression> Test(Expression subject) {
    const bool negated = Take("not");
    QD_ASSIGN_OR_RETURN(std::string name, Name());
    Expression test = Make(Kind::kTest, std::move(name), {std::move(subject)});
    test.negated = negated;
    if (Take("(")) {
      QD_RETURN_IF_ERROR(Arguments(&test));
    } else if (Peek().kind == Token::Kind::kString || Peek().kind == Token::Kind::kNumber) {
      QD_ASSIGN_OR_RETURN(Expression argument, Primary());
      test.arguments.push_back(std::move(argument));
    }
    return test;
  }

  absl::StatusOr<Expression> Subscript(Expression subject) {
    std::vector<Expression> parts = {std::move(subject)};
    bool slice = false;
    for (;;) {
      if (Take(":")) {
        slice = true;
        if (parts.size() == 1) parts.push_back(Literal(nullptr));
        if (Is("]") || Is(":")) parts.push_back(Literal(nullptr));
      } else if (Take("]")) {
        break;
      } else {
        QD_ASSIGN_OR_RETURN(Expression part, Whole());
        parts.push_back(std::move(part));
      }
      if (parts.size() > 4) return Unexpected("a slice has at most three parts");
    }
    if (!slice) {
      if (parts.size() != 2) return Unexpected("one index is expected");
      return Make(Kind::kIndex, "", std::move(parts));
    }
    while (parts.size() < 4) parts.push_back(Literal(nullptr));
    return Make(Kind::kSlice, "", std::move(parts));
  }

  // Behind "(": up to and with ")".
  absl::Status Arguments(Expression* call) {
    while (!Take(")")) {
      if (Peek().kind == Token::Kind::kName && tokens_[at_ + 1].text == "=" &&
          tokens_[at_ + 1].kind == Token::Kind::kOperator) {
        const std::string name = tokens_[at_].text;
        at_ += 2;
        QD_ASSIGN_OR_RETURN(Expression value, Whole());
        call->named.emplace_back(name, std::move(value));
      } else {
        QD_ASSIGN_OR_RETURN(Expression value, Whole());
        call->arguments.push_back(std::move(value));
      }
      if (!Take(",") && !Is(")")) return Unexpected("\",\" or \")\" is expected");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Expression> Items(Kind kind, absl::string_view close) {
    Expression result = Make(kind, "", {});
    while (!Take(close)) {
      QD_ASSIGN_OR_RETURN(Expression item, Whole());
      result.arguments.push_back(std::move(item));
      if (kind == Kind::kDict) {
        QD_RETURN_IF_ERROR(Want(":"));
        QD_ASSIGN_OR_RETURN(Expression value, Whole());
        result.arguments.push_back(std::move(value));
      }
      if (!Take(",") && !Is(close)) return Unexpected("\",\" is expected");
    }
    return result;
  }

  absl::StatusOr<Expression> Primary() {
    const Token token = Peek();
    if (token.kind == Token::Kind::kString) {
      ++at_;
      std::string text = token.text;
      // Neighbouring strings are one, as in Python.
      while (Peek().kind == Token::Kind::kString) text += tokens_[at_++].text;
      return Literal(text);
    }
    if (token.kind == Token::Kind::kNumber) {
      ++at_;
      return Literal(token.value);
    }
    if (Take("(")) {
      QD_ASSIGN_OR_RETURN(Expression inner, Whole());
      if (!Is(",")) {
        QD_RETURN_IF_ERROR(Want(")"));
        return inner;
      }
      Take(",");
      QD_ASSIGN_OR_RETURN(Expression tuple, Items(Kind::kList, ")"));
      tuple.arguments.insert(tuple.arguments.begin(), std::move(inner));
      return tuple;
    }
    if (Take("[")) return Items(Kind::kList, "]");
    if (Take("{")) return Items(Kind::kDict, "}");
    if (token.kind != Token::Kind::kName) return Unexpected("a value is expected");
    ++at_;
    if (token.text == "true" || token.text == "True") return Literal(true);
    if (token.text == "false" || token.text == "False") return Literal(false);
    if (token.text == "none" || token.text == "None") return Literal(nullptr);
    return Make(Kind::kName, token.text, {});
  }

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

class TemplateParser {
 public:
  explicit TemplateParser(std::vector<TemplatePiece> pieces) : pieces_(std::move(pieces)) {}

  absl::StatusOr<std::vector<Statement>> Whole() {
    QD_ASSIGN_OR_RETURN(std::vector<Statement> body, Body({}));
    return body;
  }

 private:
  // Statements up to a block whose first word is one of `ends` (which is not taken); with no ends
  // up to the end of the text.
  absl::StatusOr<std::vector<Statement>> Body(std::vector<absl::string_view> ends) {
    if (++depth_ > kDepthMax) return absl::InvalidArgumentError("blocks are nested too deep");
    std::vector<Statement> body;
    for (; at_ < pieces_.size(); ++at_) {
      const TemplatePiece& piece = pieces_[at_];
      if (piece.kind == TemplatePiece::Kind::kBlock) {
        const std::string& word = piece.tokens[0].text;
        if (std::find(ends.begin(), ends.end(), word) != ends.end()) break;
      }
      absl::StatusOr<Statement> statement = One(piece);
      if (!statement.ok()) {
        return absl::StartsWith(statement.status().message(), "line ")
                   ? statement.status()
                   : Annotate(statement.status(), absl::StrCat("line ", piece.line));
      }
      body.push_back(*std::move(statement));
    }
    if (!ends.empty() && at_ == pieces_.size()) {
      return absl::InvalidArgumentError(absl::StrCat("{% ", ends.back(), " %} is missing"));
    }
    --depth_;
    return body;
  }

  absl::StatusOr<Statement> One(const TemplatePiece& piece) {
    Statement statement;
    statement.line = piece.line;
    if (piece.kind == TemplatePiece::Kind::kText) {
      statement.text = piece.text;
      return statement;
    }
    ExpressionParser parser(piece.tokens);
    if (piece.kind == TemplatePiece::Kind::kOutput) {
      statement.kind = Statement::Kind::kOutput;
      QD_ASSIGN_OR_RETURN(statement.expression, parser.Whole());
      QD_RETURN_IF_ERROR(parser.End());
      return statement;
    }
    QD_ASSIGN_OR_RETURN(const std::string word, parser.Name());
    if (word == "if") return If(std::move(statement), &parser);
    if (word == "for") return For(std::move(statement), &parser);
    if (word == "set") return Set(std::move(statement), &parser);
    return absl::InvalidArgumentError(absl::StrCat(
        "{% ", word, " %} is not understood; if, for and set are (macros and includes are not)"));
  }

  absl::StatusOr<Statement> If(Statement statement, ExpressionParser* parser) {
    statement.kind = Statement::Kind::kIf;
    Statement::Branch branch;
    QD_ASSIGN_OR_RETURN(branch.condition, parser->Whole());
    QD_RETURN_IF_ERROR(parser->End());
    for (;;) {
      ++at_;
      QD_ASSIGN_OR_RETURN(branch.body, Body({"elif", "else", "endif"}));
      statement.branches.push_back(std::move(branch));
      branch = {};
      ExpressionParser next(pieces_[at_].tokens);
      if (next.Take("endif")) return statement;
      if (next.Take("else")) {
        branch.condition = Literal(true);
      } else {
        next.Take("elif");
        QD_ASSIGN_OR_RETURN(branch.condition, next.Whole());
      }
      QD_RETURN_IF_ERROR(next.End());
    }
  }

  absl::StatusOr<Statement> For(Statement statement, ExpressionParser* parser) {
    statement.kind = Statement::Kind::kFor;
    do {
      QD_ASSIGN_OR_RETURN(statement.names.emplace_back(), parser->Name());
    } while (parser->Take(","));
    QD_RETURN_IF_ERROR(parser->Want("in"));
    QD_ASSIGN_OR_RETURN(statement.expression, parser->Or());
    if (parser->Take("if")) {
      QD_ASSIGN_OR_RETURN(Expression condition, parser->Whole());
      statement.filter.push_back(std::move(condition));
    }
    QD_RETURN_IF_ERROR(parser->End());
    ++at_;
    QD_ASSIGN_OR_RETURN(statement.body, Body({"else", "endfor"}));
    if (pieces_[at_].tokens[0].text == "else") {
      ++at_;
      QD_ASSIGN_OR_RETURN(statement.otherwise, Body({"endfor"}));
    }
    return statement;
  }

  absl::StatusOr<Statement> Set(Statement statement, ExpressionParser* parser) {
    statement.kind = Statement::Kind::kSet;
    QD_ASSIGN_OR_RETURN(statement.names.emplace_back(), parser->Name());
    if (parser->Take(".")) {
      QD_ASSIGN_OR_RETURN(statement.text, parser->Name());
    }
    if (parser->Take("=")) {
      QD_ASSIGN_OR_RETURN(statement.expression, parser->Whole());
      QD_RETURN_IF_ERROR(parser->End());
      return statement;
    }
    QD_RETURN_IF_ERROR(parser->End());
    statement.expression = Literal(nullptr);
    ++at_;
    QD_ASSIGN_OR_RETURN(statement.body, Body({"endset"}));
    return statement;
  }

  std::vector<TemplatePiece> pieces_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view text,
                                                     const TemplateOptions& options) {
  QD_ASSIGN_OR_RETURN(std::vector<TemplatePiece> pieces, LexTemplate(text, options));
  return TemplateParser(std::move(pieces)).Whole();
}

}  // namespace quantd::engine
