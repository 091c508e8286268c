"""From the docstrings' plain notation, `y = r + gamma (1 - d) min_k Qk'(s', a')`, to MathML, which browsers set.

The text of the result has every token of the source in its order. An equation that cannot be read stays as it is, in
monospace. Words are upright, symbols are italic. Lines may end before a relation or a sign, and in prose.
"""

import re
from dataclasses import dataclass, field
from html import escape, unescape

GREEK = dict(alpha="α", beta="β", gamma="γ", delta="δ", eps="ε", zeta="ζ", eta="η", theta="θ", kappa="κ", lambda_="λ",
             mu="μ", nu="ν", xi="ξ", pi="π", rho="ρ", sigma="σ", tau="τ", phi="φ", chi="χ", psi="ψ", omega="ω",
             Gamma="Γ", Delta="Δ", Theta="Θ", Lambda="Λ", Sigma="Σ", Phi="Φ", Psi="Ψ", Omega="Ω")
GREEK["lambda"] = GREEK.pop("lambda_")  # a keyword of Python
SIGNS = {"-": "−", "~": "∼", "<-": "←", "->": "→", ">=": "≥", "<=": "≤", "!=": "≠", "...": "…", ".": "·", "'": "′"}
NAMES = {**GREEK, "sum": "∑"}
RELATIONS = {"=", "+=", "~", "<-", "->", ">=", "<=", "!=", "<", ">"}
FUNCTIONS = set("log exp min max sin cos tanh softplus clip KL int softmax argmax argmin sqrt sum".split())
OPERATORS = set("min max mean std sum softmax argmax argmin".split())  # what may have an index below it
PROSE = set("a all and as at by each for from if in is of on or over the to where with".split())
PAIRS = {"(": ")", "[": "]", "{": "}", "|": "|"}
LINE = 99  # a line's end, among counts of spaces
LONG = 24  # characters of a bracket; in a longer one a line may end
TOKEN = re.compile(r"""
    (?P<prose> --[a-z][\w-]* | [\w-]+(?:/[\w-]+)*\.py\b | [A-Za-z]{2,}(?:-[A-Za-z]{2,})+ | [A-Za-z]\w*'s\b
             | (?!eps')[A-Za-z]{2,}s'(?=\s))
  | (?P<derivative> d[A-Z][a-z]?/d[a-z]\b )
  | (?P<number> \d{1,3}(?:,\d{3})+\b | \d+(?:\.\d+)?(?:e-?\d+)? )
  | (?P<name> math\.pi\b | [A-Za-z][A-Za-z0-9]* )
  | (?P<sign> \.\.\. | \.\. | <- | -> | >= | <= | != | \+= | [-+=~<>.,;:/|()\[\]{}_^'*] )""", re.X)


class Unread(ValueError):
    """This notation is not the house's."""


@dataclass
class Token:
    kind: str
    text: str
    gap: int  # spaces before it; a line's end counts LINE


@dataclass
class Node:
    """A piece of a row."""
    html: str  # one MathML element, or several
    gap: int = 0
    operand: bool = True  # else an operator or punctuation
    breaks: bool = False  # may a line end before it? Behind a comma it always may
    comma: bool = False
    prefix: bool = False  # an operator in front of what it applies to: `log`, `mean_b`
    prose: str = ""  # words, set by the page where they stand outside brackets
    code: bool = False  # `policy_noise`: a name as in the code
    tall: bool = False
    inner: str = ""  # of a plain bracket: what is between
    parts: list = field(default_factory=list)  # of a long bracket: its pieces


def tokens(source: str) -> list[Token]:
    """Unread: a character that the notation does not have."""
    found, end = [], 0
    while end < len(source.rstrip()):
        start = end + len(source[end:]) - len(source[end:].lstrip())
        match = TOKEN.match(source, start)
        if not match:
            raise Unread(source[start:])
        gap = LINE if "\n" in source[end:start] else start - end
        found.append(Token(match.lastgroup, match.group(), gap))
        end = match.end()
    return found


def sign(text: str, **attributes) -> str:
    given = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<mo{given}>{escape(SIGNS.get(text, text), quote=False)}</mo>"


def folded(text: str) -> str:
    """In the text, for whoever copies or checks it, but not shown: brackets that a fraction makes superfluous."""
    return f'<mo class="fold">{escape(text)}</mo>'


def symbol(name: str) -> str:
    """A name without its index."""
    if name == "math.pi":
        return f'<mrow>{folded("math.")}<mi>π</mi></mrow>'
    if name == "sum":
        return '<mo movablelimits="false">∑</mo>'
    if name in GREEK or len(name) == 1:
        return f"<mi>{GREEK.get(name, name)}</mi>"
    if re.fullmatch("Q[a-z0-9]", name):
        return scripted("msub", "<mi>Q</mi>", leaf(name[1]))
    return f'<mi class="w">{escape(name)}</mi>'


def leaf(text: str) -> str:
    """Of an index: a number, a symbol, two symbols (`ij`), or a word."""
    if text[0].isdigit():
        return f"<mn>{text}</mn>"
    return "".join(map(symbol, text)) if re.fullmatch("[eijk]{2}", text) else symbol(text)


def row(nodes: list[Node]) -> str:
    """Side by side; operands that a space parts in the source have a thin one here."""
    html = ""
    for before, node in zip([None, *nodes], nodes):
        wide = before and node.gap > 1
        thin = before and node.gap and node.operand and before.operand
        html += '<mspace width="1em"></mspace>' if wide else '<mspace width="0.2em"></mspace>' if thin else ""
        html += node.html
    return f"<mrow>{html}</mrow>"


def scripted(tag: str, base: str, html: str, tall: bool = False) -> str:
    """With an index or a power. Its place is from the heights given here, as many fonts have no measures for it."""
    if tag == "msub":
        return f'<msub>{base}<mpadded height="0.87em">{html}</mpadded></msub>'
    return f"<msup>{base}{html}</msup>" if tall else f'<msup><mpadded height="0.45em">{base}</mpadded>{html}</msup>'


class Parser:
    """Recursive descent: a row of terms, a term of factors, a factor with indices, accents and arguments."""

    def __init__(self, source: str):
        self.tokens, self.at, self.depth, self.script = tokens(source), 0, 0, False

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else Token("end", "", 1)

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def row(self, close: str = "") -> list[Node]:
        nodes, term = [], 0  # term: where the present one begins
        while (token := self.peek()).text != close:
            if token.text == "/" and not self.script:
                self.take()
                if term == len(nodes):
                    raise Unread("nothing above a fraction's line")
                nodes[term:] = [self.fraction(nodes[term:])]
            elif self.is_operator(bool(nodes) and nodes[-1].operand):
                nodes.append(self.operator())
                term = len(nodes)
            else:
                factor = self.factor()
                clause = factor[0].prose and (" " in factor[0].prose or factor[0].prose in PROSE)
                nodes += factor
                if clause and self.peek().text != "/":
                    term = len(nodes)
        return nodes

    def is_operator(self, after_operand: bool) -> bool:
        token = self.peek()
        if token.text == "|":  # `a|s`, `p | q`; but `|x|` is a bracket
            return after_operand and (token.gap == 0 or self.peek(1).gap > 0)
        return token.text in RELATIONS or token.text in (*"+-.,;:/", "..", "...")

    def operator(self) -> Node:
        token = self.take()
        if token.text in (",", ";", ":"):
            return Node(sign(token.text, form="infix", lspace="0", rspace="0.25em"), 0, operand=False, comma=True)
        if token.text in ("..", "..."):
            return Node(f'<mo form="infix" lspace="0.1em" rspace="0.1em">{SIGNS.get(token.text, token.text)}</mo>',
                        token.gap, operand=False)
        if token.text in "+-" and self.peek().gap == 0 and (token.gap or self.at < 2 or self.tokens[self.at - 2].text in
                                                            PAIRS or self.script):
            tight = self.script and self.at > 1 and self.tokens[self.at - 2].kind in ("name", "number")
            return Node(sign(token.text, form="infix" if tight else "prefix"), token.gap, operand=False)
        if token.text == "|":
            space = "0.25em" if token.gap else "0"
            return Node(sign("|", form="infix", stretchy="false", lspace=space, rspace=space), 0, operand=False)
        return Node(sign(token.text, form="infix"), token.gap, operand=False,
                    breaks=token.text in RELATIONS or token.text in ("+", "-", "."))

    def fraction(self, above: list[Node]) -> Node:
        gap, below = above[0].gap, self.operand()

        def plain(nodes):
            if len(nodes) == 1 and nodes[0].inner:
                return f"<mrow>{folded('(')}{nodes[0].inner}{folded(')')}</mrow>"
            return row(nodes)
        return Node(f"<mfrac>{plain(above)}{plain(below)}</mfrac>", gap, tall=True)

    def operand(self) -> list[Node]:
        """A factor, with the operators in front of it: what a fraction has below its line."""
        nodes = self.factor()
        return nodes + self.operand() if nodes[-1].prefix else nodes

    def factor(self) -> list[Node]:
        token = self.peek()
        if token.text in PAIRS:
            nodes = [self.postfix(self.bracket())]
        elif self.is_prose():
            nodes = [self.prose()]
        elif token.kind == "name":
            if token.text == "sqrt" and self.peek(1).text == "(":
                return [self.root()]
            nodes = [self.name()]
        elif token.kind == "number":
            nodes = [self.postfix(Node(f"<mn>{self.take().text}</mn>", token.gap))]
        elif token.kind == "derivative":
            above, below = self.take().text.split("/")
            parts = "".join(f"<mrow><mi>d</mi>{symbol(part[1:])}</mrow>" for part in (above, below))
            nodes = [Node(f"<mfrac>{parts}</mfrac>", token.gap, tall=True)]
        else:
            raise Unread(token.text or "the end")
        while self.peek().text in ("(", "[") and self.peek().gap == 0:  # its arguments
            nodes.append(self.postfix(self.bracket()))
            nodes[0].prefix = False
        return nodes

    def is_prose(self) -> bool:
        """A word that is no function's name; `a` before such a word."""
        token, after = self.peek(), self.peek(1)
        if token.kind == "prose":
            return True
        if token.kind != "name" or token.text in GREEK or token.text in FUNCTIONS or token.text == "math.pi":
            return False
        if after.gap == 0 and after.text in ("(", "[", "_", "'", "^", "*", "~"):
            return False
        if token.text == "a" and after.gap == 1:
            self.at += 1
            word = self.is_prose() and self.tokens[self.at].kind == "name"
            self.at -= 1
            return word
        return len(token.text) > 1 and not re.fullmatch("Q[a-z0-9]", token.text)

    def prose(self) -> Node:
        gap, words = self.peek().gap, [self.take().text]
        while self.is_prose() and self.peek().gap == 1:
            words.append(self.take().text)
        text, code = " ".join(words), words[0].startswith("--") and len(words) == 1
        shown = f'<mtext{" class=code" * code}>{escape(text, quote=False)}</mtext>'
        return Node(shown.replace("class=code", 'class="code"'), gap, prose=text, code=code)

    def name(self) -> Node:
        token, after, below = self.take(), self.peek(), self.peek(1)
        word = len(token.text) > 1 and token.text not in NAMES and token.text not in OPERATORS
        word = word and not re.fullmatch("Q[a-z0-9]", token.text)
        if after.text == "_" and after.gap == 0 and below.kind == "name" and word and (
                token.text == "log" or len(below.text) > 1 and not re.fullmatch("[eijk]{2}", below.text)):
            text = token.text
            while self.peek().text == "_" and self.peek().gap == 0 and self.peek(1).kind == "name":
                text += self.take().text + self.take().text
            return Node(f'<mtext class="code">{text}</mtext>', token.gap, prose=text, code=True)
        node = Node(symbol(token.text), token.gap, prefix=token.text in FUNCTIONS)
        if token.text in OPERATORS and after.text == "_" and after.gap == 0:
            self.take()
            html, end = self.index(), self.peek()
            under = end.gap == 1 and (end.kind in ("name", "number") or end.text in PAIRS) or end.text in ("(", "[")
            node.prefix = under
            node.html = f"<munder>{node.html}{html}</munder>" if under else scripted("msub", node.html, html)
        return self.postfix(node)

    def index(self) -> str:
        """What stands behind `_` or `^`, as one element."""
        token = self.take() if self.at < len(self.tokens) else Token("end", "", 1)
        if token.gap or token.kind == "end":
            raise Unread("an index without anything in it")
        if token.text in ("(", "{"):
            before, self.script = self.script, True
            inner = row(self.row(PAIRS[token.text]))
            self.script = before
            return f"<mrow>{folded(token.text)}{inner}{folded(self.take().text)}</mrow>"
        if token.text == "-" and self.peek().kind == "number" and self.peek().gap == 0:
            return f'<mrow>{sign("-", form="prefix")}<mn>{self.take().text}</mn></mrow>'
        if token.kind not in ("name", "number"):
            raise Unread(token.text)
        html = leaf(token.text)
        if self.peek().text == "*" and self.peek().gap == 0:
            self.take()
            html = scripted("msup", html, "<mo>*</mo>")
        while self.peek().text == "," and self.peek().gap == 0 and self.peek(1).gap == 0 and self.peek(1).kind == "name":
            html += sign(self.take().text, lspace="0", rspace="0") + leaf(self.take().text)
        return f"<mrow>{html}</mrow>"

    def postfix(self, node: Node) -> Node:
        """The node with its primes, accents, indices and powers, which follow it without a space."""
        while (token := self.peek()).gap == 0 and token.text in ("'", "~", "^", "*", "_"):
            after = self.peek(1)
            free = after.gap > 0 or after.kind == "sign" and after.text not in ("(", "[", "{", "-")
            self.take()
            if token.text == "_":
                self.attach(node, "msub", self.index())
            elif token.text == "'":  # a prime's letter is raised by itself
                node.html, node.inner = f'<mrow>{node.html}<mi class="w">′</mi></mrow>', ""
            elif token.text == "*":
                self.attach(node, "msup", sign("*"))
            elif free:  # a~, s^
                node.html = f'<mover accent="true">{node.html}<mo stretchy="false">{token.text}</mo></mover>'
            elif token.text == "^":
                self.attach(node, "msup", self.index())
            else:
                raise Unread(token.text)
        return node

    @staticmethod
    def attach(node: Node, tag: str, html: str) -> None:
        """An index or a power; a long bracket's hangs on its last piece, the closing sign."""
        for piece in (node, *node.parts[-1:]):
            piece.html = scripted(tag, piece.html, html, node.tall)
        node.inner = ""

    def bracket(self) -> Node:
        first, start = self.take(), self.at
        self.depth += 1
        nodes = self.row(PAIRS[first.text])
        self.depth -= 1
        if self.at == len(self.tokens) or not nodes:
            raise Unread(f"{first.text} without its end")
        length = sum(len(token.text) + min(token.gap, 1) for token in self.tokens[start:self.at])
        tall, grows = any(node.tall for node in nodes), {True: "true", False: "false"}
        left, right = (sign(text, form=form, stretchy=grows[tall], lspace="0", rspace="0")
                       for text, form in ((first.text, "prefix"), (self.take().text, "postfix")))
        node = Node(f"<mrow>{left}{row(nodes)}{right}</mrow>", first.gap, tall=tall)
        node.inner = row(nodes) if first.text == "(" else ""
        if not tall and self.depth == 0 and length > LONG:
            flat = [part for piece in nodes for part in piece.parts or [piece]]
            flat = [Node(**{**vars(part), "prose": ""}) for part in flat]
            node.parts = [Node(left, first.gap), *flat, Node(right, 0)]
            flat[0].gap = 0
        return node

    def root(self) -> Node:
        gap = self.take().gap
        group = self.bracket()
        return self.postfix(Node(f"<msqrt>{folded('sqrt')}{folded('(')}{group.inner}{folded(')')}</msqrt>", gap, tall=True))


def plain(html: str) -> str:
    """The notation's tokens that a converted text has, without spaces and without / _ ^ { }."""
    text = unescape(re.sub("<[^>]*>", "", html))
    for name, shown in {**NAMES, **SIGNS}.items():
        text = text.replace(shown, name)
    return squeezed(text)


def squeezed(source: str) -> str:
    return re.sub(r"[\s/_^{}]", "", source)


def convert(source: str) -> str | None:
    """HTML with MathML, that may wrap; None: it cannot be read."""
    try:
        html = layout(Parser(source).row())
    except (Unread, RecursionError):
        return None
    return html if plain(html) == squeezed(source) else None


def layout(nodes: list[Node]) -> str:
    """Clauses, each of words as HTML and all else as MathML, in pieces between which a line may end."""
    clauses, pieces, piece, before = [], [], [], None

    def flush():
        if piece:
            pieces.append(f'<math displaystyle="true">{row(piece)}</math>')
            piece.clear()

    def end_clause():
        flush()
        if pieces:
            clauses.append(f'<span class="clause">{"".join(pieces)}</span>')
            pieces.clear()

    for node in [part for node in nodes for part in node.parts or [node]]:
        if node.gap > 1:
            end_clause()
            clauses.append("<br>" if node.gap == LINE else " ")
        elif before and (node.breaks or node.prose or before.prose or before.comma):
            flush()
            pieces.append(" " if node.gap and node.operand and (node.prose or before.prose) else "<wbr>")
        if node.prose:
            text = escape(node.prose, quote=False)
            pieces.append(f"<code>{text}</code>" if node.code else f"<span>{text}</span>")
        else:
            piece.append(node)
        before = node
    end_clause()
    return "".join(clauses)


def equation(source: str) -> str:
    """HTML of an equation: mathematics, or the source where it cannot be read."""
    return convert(source) or f'<code class="source">{escape(source)}</code>'
