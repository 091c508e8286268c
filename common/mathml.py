"""From the docstrings' plain notation, `y = r + gamma (1 - d) min_k Qk'(s', a')`, to MathML, which browsers set.

The text of the result has every token of the source in its order. An equation that cannot be read stays as it is, in
monospace. Words are upright, symbols are italic. Lines may end before a relation or a sign, and in prose.
"""

import re
from dataclasses import dataclass, field, replace
from html import escape, unescape

GREEK = dict(zip("alpha beta gamma delta eps zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega "
                 "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split(), "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩ"))
SIGNS = {"-": "−", "~": "∼", "<-": "←", "->": "→", ">=": "≥", "<=": "≤", "!=": "≠", "...": "…", ".": "·", "'": "′"}
NAMES = {**GREEK, "sum": "∑"}
RELATIONS = {"=", "+=", "~", "<-", "->", ">=", "<=", "!=", "<", ">"}
FUNCTIONS = set("log exp min max sin cos tanh softplus clip KL int softmax argmax argmin sqrt sum".split())
OPERATORS = set("min max mean std sum softmax argmax argmin".split())  # what may have an index below it
PROSE = set("a all and as at by each for from if in is of on or over the to where with".split())
THIN = '<mspace width="0.22em"></mspace>'
PAIRS = {"(": ")", "[": "]", "{": "}", "|": "|"}
LINE = 99  # a line's end, among counts of spaces
LONG = 24  # characters of a bracket; in a longer one a line may end
CROWDED = 16  # characters between places where a line may end; after more it may end at any space
TOKEN = re.compile(r"""
    (?P<prose> --[a-z][\w-]* | [\w-]+(?:/[\w-]+)*\.py\b | [A-Za-z]{2,}(?:-[A-Za-z]{2,})+ | [A-Za-z]\w*'s\b
             | (?!eps')[A-Za-z]{2,}s'(?=\s))
  | (?P<derivative> d[A-Z][a-z]?/d[a-z]\b )
  | (?P<number> \d{1,3}(?:,\d{3})+\b | \d+(?:\.\d+)?(?:e-?\d+)? )
  | (?P<name> math\.pi\b | [A-Za-z][A-Za-z0-9]* )
  | (?P<sign> \.\.\. | \.\. | <- | -> | >= | <= | != | \+= | [-+=~<>.,;:/|()\[\]{}_^'*] )
  | (?P<odd> \S )""", re.X)


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
    comma: str = ""  # a sign that stands close to what is before it
    prefix: bool = False  # an operator in front of what it applies to: `log`, `mean_b`
    prose: str = ""  # words, set by the page where they stand outside brackets
    code: bool = False  # `policy_noise`: a name as in the code
    tall: bool = False
    inner: str = ""  # of a plain bracket: what is between
    parts: list = field(default_factory=list)  # of a long bracket: its pieces


def tokens(source: str) -> list[Token]:
    """Unread: a character that the notation does not have."""
    found, end = [], 0
    for match in TOKEN.finditer(source):
        if match.lastgroup == "odd":
            raise Unread(match.group())
        gap = LINE if "\n" in source[end:match.start()] else match.start() - end
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


def is_word(name: str) -> bool:
    return len(name) > 1 and name not in NAMES and name != "math.pi" and not re.fullmatch("Q[a-z0-9]", name)


def leaf(text: str) -> str:
    """Of an index: a number, a symbol, two symbols (`ij`), or a word."""
    if text[0].isdigit():
        return f"<mn>{text}</mn>"
    return "".join(map(symbol, text)) if re.fullmatch("[eijk]{2}", text) else symbol(text)


def row(nodes: list[Node]) -> str:
    """Side by side; operands that a space parts in the source have a thin one here."""
    html = "".join(THIN * (before.operand and node.operand and node.gap > 0) + node.html
                   for before, node in zip([Node("", operand=False), *nodes], nodes))
    return f"<mrow>{html}</mrow>"


def scripted(tag: str, base: str, html: str, tall: bool = False) -> str:
    """With an index or a power. Its place is from the heights given here, as many fonts have no measures for it."""
    if tag == "prime":  # its letter is raised by itself
        return f'<mrow>{base}<mi class="prime">′</mi></mrow>'
    if tag == "msub":
        return f'<msub>{base}<mpadded height="0.87em">{html}</mpadded></msub>'
    return f"<msup>{base}{html}</msup>" if tall else f'<msup><mpadded height="0.45em">{base}</mpadded>{html}</msup>'


class Parser:
    """Recursive descent: a row of terms, a term of factors, a factor with indices, accents and arguments."""

    def __init__(self, source: str):
        self.tokens, self.at, self.depth, self.script = tokens(source), 0, 0, False

    def peek(self, ahead: int = 0) -> Token:
        at = self.at + ahead
        return self.tokens[at] if 0 <= at < len(self.tokens) else Token("end", "", 1)

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def row(self, close: str = "") -> list[Node]:
        nodes, term = [], 0  # term: where the present one begins
        while (token := self.peek()).text != close or close == "|" and token.gap:  # ` |` begins another
            term = len(nodes) if token.gap > 1 else term
            if token.text == "/" and not self.script:
                nodes[term:] = [self.fraction(nodes[term:])]
                continue
            operator = self.is_operator(bool(nodes) and nodes[-1].operand)
            new = [self.operator()] if operator else self.factor()
            nodes += new
            words = " " in new[0].prose or new[0].prose in PROSE
            if operator or words and self.peek().text != "/":
                term = len(nodes)
        return nodes

    def is_operator(self, after_operand: bool) -> bool:
        if (token := self.peek()).text == "|":  # `a|s`, `p | q`; but `|x|` is a bracket
            return after_operand and (token.gap == 0 or self.peek(1).gap > 0)
        return token.text in RELATIONS | {*"+-.,;:/", "..", "..."}

    def operator(self) -> Node:
        before, token = self.peek(-1), self.take()
        if token.text in (",", ";", ":") or token.text == "." and not token.gap:
            html = f'<mo form="infix" lspace="0" rspace="0.25em">{token.text}</mo>'
            return Node(html, operand=False, comma=token.text)
        if token.text in ("|", "..", "..."):
            space = "0.25em" if token.text == "|" and token.gap else "0" if token.text == "|" else "0.1em"
            return Node(sign(token.text, form="infix", stretchy="false", lspace=space, rspace=space), operand=False)
        if token.text in "+-" and self.peek().gap == 0 and (token.gap or before.text in ("", *PAIRS)):  # its own sign
            return Node(sign(token.text, form="prefix"), token.gap, operand=False)
        breaks = token.text in RELATIONS | {"+", "-", "."}
        return Node(sign(token.text, form="infix"), token.gap, operand=False, breaks=breaks)

    def fraction(self, above: list[Node]) -> Node:
        if not above:
            raise Unread("nothing above a fraction's line")
        self.take()
        parts = [f"<mrow>{folded('(')}{nodes[0].inner}{folded(')')}</mrow>" if len(nodes) == 1 and nodes[0].inner else
                 row(nodes) for nodes in (above, self.operand())]
        return Node(f"<mfrac>{''.join(parts)}</mfrac>", above[0].gap, tall=True)

    def operand(self) -> list[Node]:
        """A factor, with the operators in front of it: what a fraction has below its line."""
        nodes = self.factor()
        return nodes + self.operand() if nodes[-1].prefix else nodes

    def glued(self, texts) -> bool:
        """Does one of these follow without a space?"""
        return self.peek().gap == 0 and self.peek().text in tuple(texts)

    def factor(self) -> list[Node]:
        token = self.peek()
        if token.text in PAIRS:
            nodes = [self.postfix(self.bracket())]
        elif self.is_prose():
            nodes = [self.prose()]
        elif token.kind == "name":
            nodes = [self.root() if token.text == "sqrt" and self.peek(1).text == "(" else self.name()]
        elif token.kind == "number":
            nodes = [self.postfix(Node(f"<mn>{self.take().text}</mn>", token.gap))]
        elif token.kind == "derivative":
            parts = "".join(f"<mrow><mi>d</mi>{symbol(part[1:])}</mrow>" for part in self.take().text.split("/"))
            nodes = [Node(f"<mfrac>{parts}</mfrac>", token.gap, tall=True)]
        else:
            raise Unread(token.text or "the end")
        while self.glued("(["):  # its arguments
            nodes.append(self.postfix(self.bracket()))
            nodes[0].prefix = False
        return nodes

    def is_prose(self, ahead: int = 0) -> bool:
        """A word that is no function's name; `a` before such a word."""
        token, after = self.peek(ahead), self.peek(ahead + 1)
        if token.kind == "prose":
            return True
        if token.kind != "name" or token.text in FUNCTIONS or after.gap == 0 and after.text in (*"([_'^*~",):
            return False
        if token.text == "a" and after.gap == 1:
            return after.kind == "name" and self.is_prose(ahead + 1)
        return is_word(token.text)

    def prose(self) -> Node:
        gap, words = self.peek().gap, [self.take().text]
        while self.is_prose() and self.peek().gap == 1 and "--" not in self.peek().text + words[0]:
            words.append(self.take().text)
        html = f"<mtext>{escape(' '.join(words), quote=False)}</mtext>"
        return Node(html, gap, prose=" ".join(words), code=words[0].startswith("--"))

    def name(self) -> Node:
        token, below = self.take(), self.peek(1)
        word = is_word(token.text) and token.text not in OPERATORS
        indexed = self.glued("_")
        if indexed and below.kind == "name" and word and (
                token.text == "log" or len(below.text) > 1 and not re.fullmatch("[eijk]{2}", below.text)):
            text = token.text
            while self.glued("_") and self.peek(1).kind == "name":
                text += self.take().text + self.take().text
            return Node(f'<mtext class="id">{text}</mtext>', token.gap, prose=text, code=True)
        node = Node(symbol(token.text), token.gap, prefix=token.text in FUNCTIONS)
        if token.text in OPERATORS and indexed:
            self.take()
            html, end = self.index(), self.peek()
            applied = end.gap == 1 and (end.kind in ("name", "number") or end.text in PAIRS)
            node.prefix = applied or end.text in ("(", "[")
            node.html = f"<munder>{node.html}{html}</munder>" if node.prefix else scripted("msub", node.html, html)
        return self.postfix(node)

    def index(self) -> str:
        """What stands behind `_` or `^`, as one element."""
        token, before = self.peek(), self.script
        if token.gap:  # or the end
            raise Unread("an index without anything in it")
        self.take()
        if token.text in ("(", "{"):
            self.script = True
            inner = row(self.row(PAIRS[token.text]))
            self.script = before
            return f"<mrow>{folded(token.text)}{inner}{folded(self.take().text)}</mrow>"
        if token.text == "-" and self.peek().kind == "number" and self.peek().gap == 0:
            return f'<mrow>{sign("-", form="prefix")}<mn>{self.take().text}</mn></mrow>'
        if token.kind not in ("name", "number"):
            raise Unread(token.text)
        html = leaf(token.text)
        html = scripted("msup", html, sign(self.take().text)) if self.glued("*") else html
        while self.glued(",") and self.peek(1).gap == 0 and self.peek(1).kind == "name":
            html += sign(self.take().text, lspace="0", rspace="0") + leaf(self.take().text)
        return f"<mrow>{html}</mrow>"

    def postfix(self, node: Node) -> Node:
        """The node with its primes, accents, indices and powers, which follow it without a space."""
        while self.glued("'~^*_"):
            token, after = self.take(), self.peek()
            free = after.gap > 0 or after.kind == "sign" and after.text not in ("(", "[", "{", "-")
            if token.text in "^~" and free:  # a~, s^
                node.html = f'<mover accent="true">{node.html}<mo stretchy="false">{token.text}</mo></mover>'
                node.parts = []
            elif token.text == "~":
                raise Unread(token.text)
            else:
                tag = {"_": "msub", "'": "prime"}.get(token.text, "msup")
                html = self.index() if token.text in "_^" else sign("*")
                for piece in (node, *node.parts[-1:]):  # a long bracket's hangs on its last piece, the closing sign
                    piece.html = scripted(tag, piece.html, html, node.tall)
            node.inner = ""
        return node

    def bracket(self) -> Node:
        first, start = self.take(), self.at
        self.depth += 1
        nodes = self.row(PAIRS[first.text])
        self.depth -= 1
        if self.at == len(self.tokens) or not nodes:
            raise Unread(f"{first.text} without its end")
        tall, inside = any(node.tall for node in nodes), self.tokens[start:self.at]
        left, right = (sign(text, form=form, stretchy=str(tall).lower(), lspace="0", rspace="0")
                       for text, form in ((first.text, "prefix"), (self.take().text, "postfix")))
        inner = row(nodes)
        node = Node(f"<mrow>{left}{inner}{right}</mrow>", first.gap, tall=tall, inner=inner * (first.text == "("))
        if not tall and self.depth < 2 and sum(len(token.text) + 1 for token in inside) > LONG:
            flat = [replace(part, prose="") for piece in nodes for part in piece.parts or [piece]]
            node.parts = [Node(left, first.gap), *flat, Node(right)]
        return node

    def root(self) -> Node:
        gap, inner = self.take().gap, self.bracket().inner
        return self.postfix(Node(f"<msqrt>{folded('sqrt(')}{inner}{folded(')')}</msqrt>", gap, tall=True))


def plain(html: str) -> str:
    """The notation's tokens that a converted text has, without spaces and without / _ ^ { }."""
    text = unescape(re.sub("<[^>]*>", "", html))
    for name, shown in {**NAMES, **SIGNS}.items():
        text = text.replace(shown, name)
    return squeezed(text)


def squeezed(source: str) -> str:
    return re.sub(r"[\s/_^{}]", "", source)


def convert(source: str) -> str | None:
    """HTML with MathML, that may wrap; None: it cannot be read, or is too long for an equation."""
    try:
        html = layout(Parser(source).row()) if len(source) < 2000 else ""
    except (Unread, RecursionError):
        return None
    return html if plain(html) == squeezed(source) else None


def layout(nodes: list[Node]) -> str:
    """Clauses, each of words as HTML and all else as MathML, in pieces between which a line may end."""
    html, piece, before = "", [], Node("", operand=False)
    for node in [*(part for node in nodes for part in node.parts or [node]), None]:
        ends = node is None or node.gap > 1
        beside = not ends and node.gap == 1 and node.operand and before.operand
        cut = ends or node.breaks or node.prose or before.prose or before.comma
        if piece and (cut or beside and len(plain(row(piece))) > CROWDED):
            html += f'<math displaystyle="true">{row(piece)}</math>'
            piece = []
        if node is None:
            break
        if ends:
            html += f'</span>{"<br>" if node.gap == LINE else " "}<span class="clause">'
        elif not piece:
            html += " " if node.gap and node.operand and (node.prose or before.prose) else "<wbr>"
            piece += [Node(THIN, operand=False)] if beside and not node.prose and not before.prose else []
        text, tag = escape(node.prose, quote=False), "code" if node.code else "span"
        if node.comma and before.prose:  # no line may begin with it
            html, text = html.removesuffix("<wbr>"), node.comma
        html += f"<{tag}>{text}</{tag}>{node.comma and ' '}" * bool(text)
        piece += [] if text else [node]
        before = node
    return f'<span class="clause">{html.removeprefix("<wbr>")}</span>'
