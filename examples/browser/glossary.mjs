// Prompts in another language: words of a table's glossary are replaced by what the model's own vocabulary says for them.
import { normalise, sort } from "./words.mjs";

/**
 * A function from a text to the same with the glossary's entries replaced, blanks around. The text's lines are like
 * `りんご, 林檎 = apple`; nothing after `=`: left out. The rules are those of kakusan's own `conditions/glossary.py`.
 */
export function glossary(text) {
  const entries = new Map(), mixed = new Set(), most = new Map();
  for (const line of text.split("\n").filter((line) => line.trim())) {
    const at = line.indexOf("=");
    for (const word of line.slice(0, at).split(/[,、，]/u).map(normalise)) {
      const key = folded(word), first = Array.from(key)[0];
      if (isMixed(Array.from(word))) mixed.add(word);
      entries.set(key, line.slice(at + 1).trim());
      most.set(first, Math.max(most.get(first) ?? 0, Array.from(key).length));
    }
  }

  /** Where the longest entry ends that begins at a place; 0 if none does. */
  function end(plain, like, at) {
    if (inside(like, at)) return 0;
    for (let to = Math.min(like.length, at + (most.get(like[at]) ?? 0)); to > at; to--) {
      if (!entries.has(like.slice(at, to).join("")) || inside(like, to)) continue;
      const word = plain.slice(at, to);
      if (mixed.has(word.join("")) || !isMixed(word)) return to;
    }
    return 0;
  }

  /** A text in stretches: [characters, meaning], the meaning null where no entry has one. */
  function parts(plain) {
    const like = Array.from(folded(plain.join(""))), found = [];
    let at = 0, begun = 0;
    while (at < plain.length) {
      const to = end(plain, like, at);
      if (!to) {
        at++;
        continue;
      }
      if (begun < at) found.push([plain.slice(begun, at), null]);
      found.push([plain.slice(at, to), entries.get(like.slice(at, to).join(""))]);
      at = begun = to;
    }
    if (begun < at) found.push([plain.slice(begun), null]);
    return found;
  }

  return (said) => {
    const found = parts(Array.from(normalise(said)));
    if (found.every(([, meaning]) => meaning === null)) return said;
    return found
      .map(([part, meaning], i) => (meaning === null || runsOn(found, i) ? part.join("") : ` ${meaning} `))
      .join("");
  };
}

/** Katakana as hiragana. */
function folded(text) {
  return text.replace(/[\u30a1-\u30f6\u30fd\u30fe]/gu, (c) => String.fromCodePoint(c.codePointAt(0) - 0x60));
}

/** Whether a place is inside a word of a script with spaces. */
function inside(text, at) {
  return at > 0 && at < text.length && sort(text[at - 1]) === "word" && sort(text[at]) === "word";
}

/** Whether a stretch may be part of a word that no entry knows: then it stays as it is. */
function runsOn(found, i) {
  const [part, meaning] = found[i];
  const before = i > 0 && found[i - 1][1] === null ? found[i - 1][0].at(-1) : " ";
  const after = i + 1 < found.length && found[i + 1][1] === null ? found[i + 1][0][0] : " ";
  if (!meaning) return [before, after].some((c) => sort(c) === "spaceless");
  const foreign = [[before, part[0]], [part.at(-1), after]].some((pair) => pair.every(isKatakana));
  return foreign || (part.length <= 2 && [...part, after].every(isKana));
}

const isKana = (c) => /^[\u3041-\u30ff]$/u.test(c);
const isKatakana = (c) => /^[\u30a1-\u30ff]$/u.test(c);

/** Whether kana change inside a word of kana. */
function isMixed(word) {
  const letters = word.filter((c) => c !== "ー");
  return letters.every(isKana) && new Set(letters.map(isKatakana)).size === 2;
}
