// WordPiece in JavaScript: the token ids that Hugging Face's BERT tokenizers give, from the same tokenizer.json.
//
//   const tokenize = makeTokenizer(JSON.parse(textOfTheFile), 128);
//   const { ids, pieces, cut } = tokenize("a red fruit");
//
// ids: [CLS] … [SEP], at most 128 of them. pieces: the same as text. cut: whether the text had more.

const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\ufffd]/u, SPACE = /\p{White_Space}/u;
const MARK = /(?!\u{111c9})[\p{Mn}\u1734\u{1171e}]/u, PUNCTUATION = /[\p{P}!-/:-@[-`{-~\u166d\u{111c9}]/u;

// The tokenizers' tables are of Unicode 8; a browser's are newer. What has changed since is a letter to them, in these ranges.
const LETTERS = (
  "61d 7fd 890-8e2 9fd-9fe a76 afa-aff b55 c04-c3c c77 c84 d00 d3b-d3c d81 eba ece 180f-1886 1abf-1aeb 1b4e-1b4f " +
  "1b7d-1b7f 1df6-1dfb 2e43-2e5d a82c a8c5 a8ff a9bd 105c9-105e4 10d24-10d27 10d69-10f89 11070-11074 110c2-110cd 111cf " +
  "1123e-11241 1133b 11383-1145e 11660-1166c 116b9 1182f-1183b 11938-11fff 12ff1-13455 1611e-1612f 16d68-16d6f " +
  "16e97-16e9a 16f4f 16fe2-16fe4 1cf00-1cf46 1e000-1e6f5 1e944-1e95f"
).split(" ").map((range) => range.split("-").map((code) => parseInt(code, 16)));
const CHINESE = [
  [0x3400, 0x4dbf], [0x4e00, 0x9fff], [0xf900, 0xfaff], [0x20000, 0x2a6df], [0x2a700, 0x2b73f], [0x2b740, 0x2b81f],
  [0x2b920, 0x2ceaf], [0x2f800, 0x2fa1f],
];
const within = (code, ranges) => ranges.some(([low, high]) => low <= code && code <= (high ?? low));

// One character as BertNormalizer leaves it: nothing, a space, or a few characters.
function normalized(c, lowercase, stripAccents) {
  if (c >= " " && c <= "~") return lowercase ? c.toLowerCase() : c;
  if (c === "\t" || c === "\n" || c === "\r") return " ";
  if (CONTROL.test(c)) return within(c.codePointAt(0), LETTERS) ? c : "";
  if (SPACE.test(c)) return " ";
  if (within(c.codePointAt(0), LETTERS)) return c;

  let out = stripAccents ? [...c.normalize("NFD")].filter((part) => !MARK.test(part)).join("") : c;
  if (lowercase) out = [...out].map((part) => part.toLowerCase()).join("");
  return within(c.codePointAt(0), CHINESE) ? ` ${out} ` : out;
}

function isPunctuation(c) {
  return PUNCTUATION.test(c) && !within(c.codePointAt(0), LETTERS);
}

// The longest piece that the vocabulary has, again and again; a word with a rest that it lacks is unknown as a whole.
function piecesOf(word, { vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word }) {
  const characters = [...word], pieces = [];
  if (characters.length > max_input_chars_per_word) return [unk_token];
  for (let start = 0, end; start < characters.length; start = end) {
    let piece;
    for (end = characters.length; end > start; end--) {
      piece = (start ? continuing_subword_prefix : "") + characters.slice(start, end).join("");
      if (Object.hasOwn(vocab, piece)) break;
    }
    if (end === start) return [unk_token];
    pieces.push(piece);
  }
  return pieces;
}

export function makeTokenizer({ model, normalizer, added_tokens }, maxLength) {
  const known = model.type === "WordPiece" && normalizer?.type === "BertNormalizer";
  if (!(known && normalizer.clean_text && normalizer.handle_chinese_chars)) {
    throw new Error(`This page reads with the WordPiece of BERT, not with ${model.type} and ${normalizer?.type}.`);
  }
  const { lowercase } = normalizer, stripAccents = normalizer.strip_accents ?? lowercase;
  const special = added_tokens.map((token) => token.content);
  const specials = new RegExp(`(${special.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})`);

  // Words, one by one, so that of a very long text only the beginning is looked at.
  function* words(text) {
    for (const part of text.split(specials)) {
      if (special.includes(part)) yield part;
      else yield* split(part);
    }
  }
  function* split(text) {
    let word = "";
    for (const character of text) {
      for (const c of normalized(character, lowercase, stripAccents)) {
        const ends = SPACE.test(c), alone = !ends && isPunctuation(c);
        if (!ends && !alone) { word += c; continue; }
        if (word) yield word;
        if (alone) yield c;
        word = "";
      }
    }
    if (word) yield word;
  }

  return (text) => {
    const pieces = ["[CLS]"];
    let cut = false;
    for (const word of words(text)) {
      pieces.push(...(special.includes(word) ? [word] : piecesOf(word, model)));
      cut = pieces.length > maxLength - 1;
      if (cut) break;
    }
    pieces.splice(maxLength - 1, Infinity, "[SEP]");
    return { ids: pieces.map((piece) => model.vocab[piece]), pieces, cut };
  };
}
