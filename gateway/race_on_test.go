//go:build race

package gateway

// raceDetector: memory says nothing, and all takes longer.
const raceDetector = true
