"""Valid files that ask a decoder for more memory or time than a film may take, and honest large ones.

``known`` holds the classes that version 0.1.0 fell to. ``held_out`` and ``held_out_dicom`` hold classes
that no limit was made for, so that they show whether the limits hold in general. ``honest`` holds films
of 50 megapixels that must be read. Every class is a function of one size; tests take small sizes, and
``python -m tests.hostile`` measures the large ones.
"""
