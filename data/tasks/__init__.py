"""Tasks to finetune on: the table, their files, records."""
