"""Files of generated waveforms, and which waveforms may be asked for."""
