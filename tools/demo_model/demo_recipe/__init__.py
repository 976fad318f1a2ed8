"""How the demonstration model foundry-demo:1 is made: its data, tokenizer, network and format."""
