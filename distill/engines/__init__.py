"""What answers the evaluation's questions: Ollama, or llama.cpp inside this process. Imports go to the modules."""
