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

function sort(c) {
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

/** A word, as a list of characters, in pieces: neighbours are joined in the order in which joints were learnt. */
function pieces(word, rank) {
  let found = word;
  for (;;) {
    let best = Infinity, pair = null;
    for (let i = 0; i + 1 < found.length; i++) {
      const at = rank.get(found[i] + found[i + 1]) ?? Infinity;
      if (at < best) [best, pair] = [at, [found[i], found[i + 1]]];
    }
    if (pair === null) return found;
    const joined = [];
    for (const part of found) {
      if (joined.at(-1) === pair[0] && part === pair[1]) joined[joined.length - 1] += part;
      else joined.push(part);
    }
    found = joined;
  }
}

/** A reader of one condition of a table: words to `{pieces, weight}`, `length` numbers each; too many words are refused. */
export function reader(about) {
  const rank = new Map(about.vocabulary.split(" ").map((piece, i) => [piece, i]));
  return (text) => {
    const numbers = split(text).flatMap((word) => pieces(word, rank)).map((p) => (rank.has(p) ? FIRST + rank.get(p) : UNKNOWN));
    if (numbers.length > about.length) throw new Error(`the prompt has ${numbers.length} pieces; the model reads ${about.length}`);
    const rest = Array(about.length - numbers.length).fill(0);
    return { pieces: [...numbers, ...rest], weight: [...numbers.map(() => 1), ...rest] };
  };
}
