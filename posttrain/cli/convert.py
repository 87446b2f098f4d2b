"""`posttrain convert`."""

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(dest="format", required=True, metavar="llama2c")
    llama2c = formats.add_parser("llama2c", help="a llama2.c checkpoint with its tokenizer, such as stories260K")
    llama2c.add_argument("model", metavar="BIN")
    llama2c.add_argument("tokenizer", metavar="TOKENIZER")
    llama2c.add_argument("folder", metavar="OUT", help="the folder to write; AutoModelForCausalLM loads it")


def execute(args: argparse.Namespace) -> int:
    from posttrain.models.convert import convert_llama2c

    convert_llama2c(args.model, args.tokenizer, args.folder)
    print(f"written: {args.folder}")
    return 0
