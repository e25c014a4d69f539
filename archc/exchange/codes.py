"""E7xx: configs and weights of other libraries, and patterns of letters."""

from __future__ import annotations

from archc.text.codes import Code

CODES: dict[str, Code] = {
    "E701": Code(
        "no config there",
        "A model of transformers is a folder with config.json and safetensors. Its config alone makes a spec; weights\n"
        "are read from the folder. Nothing is fetched from anywhere.",
        "archc import hf somebody/model",
        "archc import hf ./model -o run\narchc import hf ./model/config.json -o model.arch",
    ),
    "E702": Code(
        "a config cannot be read",
        "A config.json holds one JSON object, in UTF-8; no name stands in it twice.",
        '{"model_type": "llama", }',
        '{"model_type": "llama"}',
    ),
    "E703": Code(
        "no spec is known for the model type",
        "The model_type of a config decides which shipped spec it is read into, by the data in specs/*.hf.toml.",
        '{"model_type": "lama"}',
        '{"model_type": "llama"}',
    ),
    "E704": Code(
        "unknown field of a config",
        "A field that nobody knows might change what the model computes, so it is not passed over. Fields that are\n"
        "known to change nothing are listed as free in specs/*.hf.toml.",
        '{"model_type": "recurrent_gemma", "atention_window_size": 1024}',
        '{"model_type": "recurrent_gemma", "attention_window_size": 1024}',
    ),
    "E705": Code(
        "a field has a value that the spec cannot say",
        "The spec computes one thing, the config asks for another: an activation, a bias, a kind of rotation. Change\n"
        "the spec by hand if that is what you need; an import never leaves it out.",
        '{"model_type": "llama", "hidden_act": "relu"}',
        '{"model_type": "llama", "hidden_act": "silu"}',
    ),
    "E706": Code(
        "a field has a value of another kind",
        "Sizes are whole numbers above zero; switches are true or false.",
        '{"model_type": "llama", "hidden_size": "4096"}',
        '{"model_type": "llama", "hidden_size": 4096}',
    ),
    "E707": Code(
        "a list of layers that cannot be said",
        "Every kind of layer must be known, and the list must hold one at least; it is repeated and cut to the depth.",
        '{"model_type": "recurrent_gemma", "block_types": ["recurent", "attention"]}',
        '{"model_type": "recurrent_gemma", "block_types": ["recurrent", "attention"]}',
    ),
    "E708": Code(
        "weights are missing",
        "Every weight of the spec comes from a tensor; none is invented. A folder with the body of a model alone,\n"
        "or another head, lacks some.",
        "",
        "",
    ),
    "E709": Code(
        "tensors are left over",
        "Every tensor must have a place in the spec, repeat a weight that it is tied to, or be known to hold nothing\n"
        "learned.",
        "",
        "",
    ),
    "E710": Code(
        "a tensor has another shape",
        "The config says how large a tensor is. Where its size in the file differs, the two are of different models.",
        "",
        "",
    ),
    "E711": Code(
        "weights cannot be read",
        "Weights are safetensors, in one file or in shards with an index, with elements in float64, float32, float16\n"
        "or bfloat16. The message says which file is missing, cut off or of another kind.",
        "",
        "",
    ),
    "E712": Code(
        "a field is given twice",
        "Some fields have an older name. Where a config has both, with different values, neither is taken.",
        '{"model_type": "gpt_neox", "rotary_pct": 0.25, "partial_rotary_factor": 1.0}',
        '{"model_type": "gpt_neox", "rotary_pct": 0.25}',
    ),
    "E713": Code(
        "transformers has no such model",
        "A model can be exported if its equations are those of a shipped spec that transformers has, at any size.\n"
        "With equations changed by hand transformers would load the weights and compute something else.",
        "",
        "",
    ),
    "E714": Code(
        "no model and weights there",
        "A folder that archc import wrote holds model.arch and weights.safetensors.",
        "archc export hf runs -o out",
        "archc import hf ./model -o run\narchc export hf run -o out",
    ),
    "E715": Code(
        "a pattern of layers cannot be read",
        "A pattern has one letter a layer: M Mamba-2, * attention, - MLP. A | between letters only parts them. Or it "
        "has one word a layer, as the list in a config does.",
        "archc import pattern 'M-X*'",
        "archc import pattern 'M-M*-'",
    ),
}
