"""Tokens and passwords of a command line stand in no file."""

import pickle

from common.secrecy import shown_command
from training.arguments import RunArguments, parse_arguments


def test_secrets_are_shown_nowhere(tmp_path):
    words = [
        "run.py",
        "--hub_token",
        "s3cret",
        "--hub-token=s3cret",
        "--api_key",
        "s3cret",
        "https://me:s3cret@host/x",
    ]
    words += ["--x", "hf_" + "a" * 20, "--tokenizer_name", "folder", "--token_types", "yes", "--max_tokens", "5"]
    shown = shown_command(words)
    assert "s3cret" not in " ".join(shown) and "aaaa" not in " ".join(shown)
    assert shown[-6:] == words[-6:] and shown[:3] == ["run.py", "--hub_token", "***"]
    (args,) = parse_arguments([RunArguments], ["--output_dir", str(tmp_path), "--hub_token", "hf_secretsecret"])
    assert args.hub_token == "hf_secretsecret" and pickle.loads(pickle.dumps(args)).hub_token is None
    assert "secretsecret" not in args.to_json_string()
