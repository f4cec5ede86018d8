"""Which rows there will be: questions, curated pairs, the split by documents, and what is asked for each."""
