// Prompts as the numbers that an exported network reads: the spelling of kakusan's words, from the table's vocabulary.

const START = "_"; // begins a word of a script that has spaces
const LONGEST = 48; // characters that are spelled as one
const UNKNOWN = 1, FIRST = 2; // numbers: a character never seen; the vocabulary's first piece

/** NFKC, case folded, accents of Latin and Greek letters taken off, white space single. */
export function normalise(text) {
  text = folded(text.normalize("NFKC")).normalize("NFKC");
  let kept = "", base = " ";
  for (const c of text.normalize("NFD")) {
    if (/[\p{Cf}\p{Cs}\p{Cn}\p{Co}\u{fe00}-\u{fe0f}\u{e0100}-\u{e01ef}]/u.test(c)) continue;
    if (!/\p{M}/u.test(c)) base = c;
    else if (/[\p{Script=Latin}\p{Script=Greek}]/u.test(base)) continue;
    kept += c;
  }
  return kept.normalize("NFKC").split(/\s+/u).filter(Boolean).join(" ");
}

/** Case folding, which JavaScript lacks: capitals first, so that letters with none of their own (ß) become those they stand for. */
function folded(text) {
  return Array.from(text, (c) => c.toUpperCase().toLowerCase()).join("").replaceAll("ς", "σ");
}

/** What a character is: of a "word", of a script without spaces ("spaceless"), a "sign", or a "gap". */
export function sort(c) {
  if (/[\p{L}\p{M}\p{N}]/u.test(c)) {
    return /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Bopomofo}ーｰ]/u.test(c) ? "spaceless" : "word";
  }
  return /[\p{S}%&#@]/u.test(c) ? "sign" : "gap";
}

/** The words of a text: `_red` in scripts with spaces, unmarked runs in Japanese and Chinese, signs. */
export function split(text) {
  const words = [];
  let before = "gap";
  for (const c of normalise(text)) {
    const now = sort(c);
    if (now !== "gap") {
      if (now !== before || now === "sign" || words.at(-1).length >= LONGEST) words.push(now === "word" ? [START] : []);
      words.at(-1).push(c);
    }
    before = now;
  }
  return words;
}

/** A word, as a list of characters, in pieces: from the left, the longest that is known (WordPiece). */
function longest(word, rank, most) {
  const found = [];
  for (let at = 0; at < word.length; ) {
    let end = Math.min(word.length, at + most);
    while (end > at + 1 && !rank.has(word.slice(at, end).join(""))) end--;
    found.push(word.slice(at, end).join(""));
    at = end;
  }
  return found;
}

/** The same where pieces were learnt by joining neighbours: they are joined again, in the order learnt. */
function joined(word, rank) {
  let found = word;
  for (;;) {
    let best = Infinity, pair = null;
    for (let i = 0; i + 1 < found.length; i++) {
      const at = rank.get(found[i] + found[i + 1]) ?? Infinity;
      if (at < best) [best, pair] = [at, [found[i], found[i + 1]]];
    }
    if (pair === null) return found;
    const next = [];
    for (const part of found) {
      if (next.at(-1) === pair[0] && part === pair[1]) next[next.length - 1] += part;
      else next.push(part);
    }
    found = next;
  }
}

/**
 * A reader of one condition of a table: words to `{pieces, weight}`, `length` numbers each; too many words are refused.
 * `translated`: what is done to a text before (glossary.mjs).
 */
export function reader(about, translated = (text) => text) {
  const rank = new Map(about.vocabulary.split(" ").map((piece, i) => [piece, i]));
  const most = Math.max(...Array.from(rank.keys(), (piece) => Array.from(piece).length));
  const pieces = (word) => (about.spelled === "longest" ? longest(word, rank, most) : joined(word, rank));
  return (text) => {
    const numbers = split(translated(text)).flatMap(pieces).map((p) => (rank.has(p) ? FIRST + rank.get(p) : UNKNOWN));
    if (numbers.length > about.length) throw new Error(`the prompt has ${numbers.length} pieces; the model reads ${about.length}`);
    const rest = Array(about.length - numbers.length).fill(0);
    return { pieces: [...numbers, ...rest], weight: [...numbers.map(() => 1), ...rest] };
  };
}
