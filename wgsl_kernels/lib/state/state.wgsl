// provides: State
// What changes from step to step, kept on the device: `position` is that of the first token of this step, `valid`
// how many of the step's tokens are real, `sequence` which cache to use, `steps` how many tokens were generated.
struct State { position: u32, valid: u32, sequence: u32, steps: u32 }
