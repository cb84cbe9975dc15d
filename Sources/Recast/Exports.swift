// The whole library under one name.
@_exported import Architectures
@_exported import Calibration
@_exported import Checkpoints
@_exported import Consumers
@_exported import Conversion
@_exported import Formats
@_exported import Parity
@_exported import Quantization
@_exported import ReferenceModels
@_exported import Runtime
@_exported import StrictJSON
@_exported import Sweeps
@_exported import Tensors
@_exported import Tokenizers
