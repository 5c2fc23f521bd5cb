//go:build race

package history

// raceEnabled says that the race detector slows everything down about tenfold.
const raceEnabled = true
