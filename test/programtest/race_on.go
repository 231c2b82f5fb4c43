//go:build race

package programtest

// Race says that the race detector is on: memory says nothing, and all takes
// longer.
const Race = true
