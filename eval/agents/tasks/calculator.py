"""A C++ program: slow compiles of headers full of templates, edits that rebuild a part or all of it, a long check."""

from eval.agents.task import Create, Finish, Replace, Run, Step, Task, View

_TOKEN = """\
#pragma once

#include <string>
#include <vector>

enum class Kind { number, sign, end };

struct Token {
    Kind kind;
    std::string text;
};

/** Throws std::invalid_argument for a character that starts no token. */
std::vector<Token> tokens(const std::string &text);
"""

_TREE = """\
#pragma once

#include <map>
#include <memory>
#include <string>
#include <variant>

struct Node;
using Pointer = std::shared_ptr<const Node>;
struct Number { long value; };
struct Negative { Pointer of; };
struct Binary { char sign; Pointer left, right; };
struct Node { std::variant<Number, Negative, Binary> is; };

Pointer parse(const std::string &text);
long value(const Pointer &tree);
"""

_TOKENS = """\
#include "token.hpp"

#include <regex>
#include <stdexcept>

std::vector<Token> tokens(const std::string &text)
{
    static const std::regex one(R"(\\s*(?:(\\d+)|([-+*/^()])))");
    std::vector<Token> found;
    auto from = text.cbegin();
    for (std::smatch match; std::regex_search(from, text.cend(), match, one, std::regex_constants::match_continuous);) {
        found.push_back({match[1].matched ? Kind::number : Kind::sign, match[1].matched ? match[1] : match[2]});
        from = match[0].second;
    }
    if (from != text.cend())
        throw std::invalid_argument("no token: " + std::string(from, text.cend()));
    found.push_back({Kind::end, ""});
    return found;
}
"""

_PARSE = """\
#include <functional>
#include <regex>
#include <stdexcept>

#include "token.hpp"
#include "tree.hpp"

namespace {

const std::map<std::string, int> strength = {{"+", 1}, {"-", 1}, {"*", 2}, {"/", 2}, {"^", 3}};

struct Parser {
    std::vector<Token> all;
    size_t next = 0;

    Pointer node(auto is) { return std::make_shared<const Node>(Node{is}); }

    Pointer operand()
    {
        Token token = all[next++];
        if (token.kind == Kind::number)
            return node(Number{std::stol(token.text)});
        if (token.text == "-")
            return node(Negative{operand()});
        if (token.text != "(")
            throw std::invalid_argument("unexpected: " + token.text);
        Pointer inner = expression(1);
        if (all[next++].text != ")")
            throw std::invalid_argument("no closing parenthesis");
        return inner;
    }

    Pointer expression(int least)
    {
        Pointer left = operand();
        for (auto found = strength.find(all[next].text); found != strength.end() && found->second >= least;
             found = strength.find(all[next].text)) {
            char sign = all[next++].text[0];
            Pointer right = expression(found->second + 1);
            left = node(Binary{sign, left, right});
        }
        return left;
    }
};

} // namespace

Pointer parse(const std::string &text)
{
    Parser parser{tokens(text)};
    Pointer tree = parser.expression(1);
    if (parser.all[parser.next].kind != Kind::end)
        throw std::invalid_argument("unexpected: " + parser.all[parser.next].text);
    return tree;
}
"""

_VALUE = """\
#include <functional>
#include <regex>
#include <stdexcept>

#include "tree.hpp"

namespace {

long power(long base, long exponent)
{
    long result = 1;
    for (; exponent > 0; exponent--)
        result *= base;
    return result;
}

const std::map<char, std::function<long(long, long)>> operations = {
    {'+', [](long a, long b) { return a + b; }}, {'-', [](long a, long b) { return a - b; }},
    {'*', [](long a, long b) { return a * b; }}, {'/', [](long a, long b) { return a / b; }},
    {'^', power},
};

struct Value {
    long operator()(const Number &node) { return node.value; }
    long operator()(const Negative &node) { return -value(node.of); }
    long operator()(const Binary &node) { return operations.at(node.sign)(value(node.left), value(node.right)); }
};

} // namespace

long value(const Pointer &tree)
{
    return std::visit(Value{}, tree->is);
}
"""

_TEST = """\
#include <iostream>
#include <stdexcept>

#include "../tree.hpp"

int failures = 0;

void expect(const std::string &text, const std::string &wanted)
{
    std::string got;
    try {
        got = std::to_string(value(parse(text)));
    } catch (const std::invalid_argument &error) {
        got = error.what();
    }
    if (got != wanted && ++failures <= 20)
        std::cout << text << ": " << got << ", not " << wanted << "\\n";
}

int main()
{
    expect("1 + 2 * 3", "7");
    expect("8 - 3 - 2", "3");
    expect("2 ^ 3 ^ 2", "512");
    expect("-2 ^ 2", "-4");
    expect("(-2) ^ 2", "4");
    expect("2 * -3", "-6");
    expect("1 / (2 - 2)", "division by zero");
    expect("(1", "no closing parenthesis");
    expect("2 ^ (0 - 1)", "negative exponent");
    for (long a = 1; a < 130; a++)
        for (long b = 1; b < 130; b++)
            expect(std::to_string(a) + " - -" + std::to_string(b) + " * (" + std::to_string(a) + " + 3) / 2 ^ 2",
                   std::to_string(a + b * (a + 3) / 4));
    std::cout << failures << " wrong\\n";
    return failures != 0;
}
"""

_MAKEFILE = """\
CXXFLAGS = -std=c++20 -O2 -Wall
OBJECTS = build/tokens.o build/parse.o build/value.o

build/check: $(OBJECTS) build/test_calculator.o
\t$(CXX) -o $@ $^

build/calculator: $(OBJECTS) build/main.o
\t$(CXX) -o $@ $^

build/%.o: %.cpp token.hpp tree.hpp | build
\t$(CXX) $(CXXFLAGS) -c -o $@ $<

build/%.o: tests/%.cpp token.hpp tree.hpp | build
\t$(CXX) $(CXXFLAGS) -c -o $@ $<

build:
\tmkdir -p build

check: build/check
\ttimeout 100 build/check
"""

_MAIN = """\
#include <iostream>
#include <stdexcept>

#include "tree.hpp"

int main()
{
    for (std::string line; std::getline(std::cin, line);) {
        try {
            std::cout << value(parse(line)) << "\\n";
        } catch (const std::invalid_argument &error) {
            std::cout << error.what() << "\\n";
        }
    }
}
"""

_NEGATIVE_OLD = "            return node(Negative{operand()});\n"
_NEGATIVE_NEW = '            return node(Negative{expression(strength.at("^"))});\n'
_RIGHT_OLD = "            Pointer right = expression(found->second + 1);\n"
_RIGHT_NEW = "            Pointer right = expression(sign == '^' ? found->second : found->second + 1);\n"
_POWER_NEW = """\
    if (exponent < 0)
        throw std::invalid_argument("negative exponent");
    long result = 1;
"""
_DIVIDE_OLD = "{'/', [](long a, long b) { return a / b; }},\n    {'^', power},"
_DIVIDE_NEW = "{'/', divided},\n    {'^', power},"
_DIVIDED = """\
namespace {

long divided(long a, long b)
{
    if (b == 0)
        throw std::invalid_argument("division by zero");
    return a / b;
}

"""

CALCULATOR = Task(
    name="calculator",
    issue="The calculator computes 2^3^2 as 64 and -2^2 as 4, crashes when it divides by zero, and takes negative "
    "exponents for 0. Fix all four, add a program that computes standard input, and make `make check` pass.",
    check="make -s CXX=g++ check",
    needs=("g++", "make"),
    files={
        ".gitignore": "build/\n",
        "Makefile": _MAKEFILE,
        "token.hpp": _TOKEN,
        "tree.hpp": _TREE,
        "tokens.cpp": _TOKENS,
        "parse.cpp": _PARSE,
        "value.cpp": _VALUE,
        "tests/test_calculator.cpp": _TEST,
    },
    steps=(
        Step("What is here?", Run("ls -l . tests && wc -l *.hpp *.cpp tests/*.cpp")),
        Step("How is it built?", Run("cat Makefile token.hpp tree.hpp")),
        Step("I build the slowest part first.", Run("make CXX=g++ build/tokens.o")),
        Step("And the rest.", Run("make CXX=g++ build/check")),
        Step("What is wrong?", Run("make CXX=g++ check")),
        Step("It crashes. Where?", View("value.cpp")),
        Step("Division first.", Replace("value.cpp", "namespace {\n\n", _DIVIDED)),
        Step("It has to be used.", Replace("value.cpp", _DIVIDE_OLD, _DIVIDE_NEW)),
        Step("And exponents.", Replace("value.cpp", "    long result = 1;\n", _POWER_NEW)),
        Step("Again.", Run("make CXX=g++ check")),
        Step("What is left is in the parser.", View("parse.cpp")),
        Step("A power takes all powers to its right.", Replace("parse.cpp", _RIGHT_OLD, _RIGHT_NEW)),
        Step("And a sign takes a whole power.", Replace("parse.cpp", _NEGATIVE_OLD, _NEGATIVE_NEW)),
        Step("Again.", Run("make CXX=g++ check")),
        Step("The program.", Create("main.cpp", _MAIN)),
        Step("I build and try it.",
             Run("make CXX=g++ build/calculator && printf '2^3^2\\n-2^2\\n1/0\\n2 $ 3\\n' | build/calculator")),
        Step("How many templates does one file pull in?",
             Run("g++ -std=c++20 -H -fsyntax-only parse.cpp 2>&1 | grep '^\\.' | sed 's/^\\(\\.*\\) .*\\//\\1 /'")),
        Step("Two files include <regex> for nothing.", Run("sed -i '/#include <regex>/d' parse.cpp value.cpp")),
        Step("Is it clean with more warnings?", Run("g++ -std=c++20 -Wall -Wextra -Wshadow -fsyntax-only *.cpp")),
        Step("From nothing, as users build it.", Run("rm -rf build && make CXX=g++ build/tokens.o")),
        Step("And the check.", Run("make CXX=g++ check")),
        Step("The change.", Run("git add --all && git status --short && git diff --cached")),
        Step("Done.", Finish("Powers, signs, division and exponents are right; main.cpp reads standard input.")),
    ),
)  # fmt: skip
