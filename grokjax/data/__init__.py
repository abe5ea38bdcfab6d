"""The knowledge graph, what runs train on and are tested on, and the authors' JSON folders."""
