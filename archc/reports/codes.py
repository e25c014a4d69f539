"""All diagnostics by code: those of specs, of the proof of causality, of the commands, of import and export."""

from __future__ import annotations

from archc.elaborate.codes import CODES as MEANING
from archc.exchange.codes import CODES as EXCHANGE
from archc.text.codes import CODES as SYNTAX
from archc.text.codes import Code

PROOF: dict[str, Code] = {
    "E501": Code(
        "a token reads later tokens",
        "A model predicts the next token, so no value may depend on tokens after its own. A sum over keys is causal\n"
        "where one of its factors is zero on later keys; the notes show the masks that let them through. Encoders may\n"
        "look ahead.",
        "p = softmax(s, over = keys, where = everything)",
        "p = softmax(s, over = keys, where = causal)",
    ),
    "E502": Code(
        "a reduction over the whole sequence",
        "A reduction over time reads every token, later ones too, and cannot be decoded token by\n"
        "token. Encoders may do it.",
        "y = mean(x, over = time)",
        "y = scan(decay = 0.9, input = x)",
    ),
}

COMMANDS: dict[str, Code] = {
    "E601": Code(
        "no such spec",
        "Specs that come with archc are named without a path; 'archc specs' lists them. A file is named by its path,\n"
        "which ends in .arch or holds a slash.",
        "archc check grifin:tiny",
        "archc check griffin:tiny\narchc check ./mine.arch",
    ),
    "E602": Code(
        "no such file",
        "The path leads to nothing. Behind the path may stand #model, where a file declares several, and :size.",
        "archc check mine.arhc",
        "archc check mine.arch#small:tiny",
    ),
    "E603": Code(
        "a file cannot be read",
        "Specs are UTF-8 text. The message says what the system answered, or which byte is no UTF-8.",
        "",
        "",
    ),
    "E604": Code(
        "a setting cannot be read",
        "--set takes the name of a parameter of the model, = and a number: 256, 1e-5, 256_000 or 2/3.",
        "archc report griffin:tiny --set width",
        "archc report griffin:tiny --set width=256 --set depth=9",
    ),
    "E605": Code(
        "files in the way",
        "archc replaces only what it wrote, as long as nobody changed it: the file .archc lists it. With --force it\n"
        "overwrites the files in its way; all others, such as checkpoints, stay where they are.",
        "archc compile griffin:tiny --backend torch -o ~/thesis",
        "archc compile griffin:tiny --backend torch -o ~/thesis/griffin",
    ),
    "E606": Code(
        "a folder cannot be put in place",
        "The output is built beside the folder and put in its place as a whole. That cannot be done to the folder you\n"
        "are in, to a file, or where a folder stands in place of a file.",
        "archc compile griffin:tiny --backend torch -o .",
        "archc compile griffin:tiny --backend torch -o griffin",
    ),
    "E607": Code(
        "the system refused",
        "A file could not be read or written: no permission, no space, no folder. What was there before is unchanged.",
        "",
        "",
    ),
    "E608": Code(
        "the framework is not installed",
        "Checking, reporting and compiling need no framework; training, generating and loading need\n"
        "the one of the backend.",
        "",
        "pip install 'archc[torch]'\npip install 'archc[jax]'",
    ),
    "E609": Code(
        "no run folder",
        "generate takes the folder that a training of a model wrote, or one of its checkpoints. An encoder fills in\n"
        "masked tokens and cannot continue a text.",
        "archc generate griffin:tiny",
        "archc generate runs/griffin-tiny-torch",
    ),
    "E610": Code(
        "no such code",
        "Codes are an E and three digits, as the diagnostics show them.",
        "archc explain 301",
        "archc explain E301",
    ),
    "E611": Code(
        "no such kind of picture",
        "The ending of the file says what is drawn: .svg, .dot for Graphviz, .mmd for Mermaid, .json for the\n"
        "graph itself.",
        "archc graph griffin:tiny -o griffin.png",
        "archc graph griffin:tiny -o griffin.svg",
    ),
    "E612": Code(
        "longer sequences than the model has positions for",
        "A model that looks positions up in a table can read documents of as many tokens as the table has rows.",
        "archc compile bert:tiny --backend torch -o out --context 512",
        "archc compile bert:tiny --backend torch -o out --context 512 --set length=512",
    ),
    "E613": Code(
        "no such target",
        "Kernels are compiled for a GPU by its compute capability, sm_80 (A100), sm_90 (H100), sm_100 (B200)\n"
        "and others; those of Pallas are lowered for tpu or cuda.",
        "archc kernels griffin:tiny --target h100",
        "archc kernels griffin:tiny --target sm_90",
    ),
    "E614": Code(
        "no kernels",
        "The model has no scan, convolution or attention that a kernel of archc runs on this target: operations of\n"
        "the framework do everything.",
        "archc kernels llama:tiny --target sm_90",
        "archc kernels griffin:tiny --target sm_90",
    ),
    "E615": Code(
        "an imported model without a tokenizer",
        "archc import takes a tokenizer.json along where one lies beside the weights. Without one nobody knows which\n"
        "text a token is. Other files (tokenizer.model, vocab.txt) are kept and exported, but not read.",
        "archc generate run --prompt Once",
        "cp model/tokenizer.json run\narchc generate run --prompt Once",
    ),
    "E616": Code(
        "nothing to train",
        "The loss of a training is of the first output, which must have one number for each token of the vocabulary.\n"
        "A body without a head, as of a BERT that was imported without one, can be compiled and loaded: what is made\n"
        "of its values, and trained, is yours to write.",
        "encoder body(width = 64, vocab = 257) {\n    x = E[vocab width](tokens)\n    return x\n}",
        "encoder body(width = 64, vocab = 257) {\n    x = E[vocab width](tokens)\n    return x @ U[width -> vocab]\n}",
    ),
    "E617": Code(
        "two models of one name",
        "A plain name is that of a spec that comes with archc, or of a folder here that holds a model.arch. Where it\n"
        "is both, nobody can say which is meant.",
        "archc import hf ./Llama-3.2-1B -o llama\narchc report llama",
        "archc import hf ./Llama-3.2-1B -o llama\narchc report ./llama",
    ),
}

CODES: dict[str, Code] = SYNTAX | MEANING | PROOF | COMMANDS | EXCHANGE
