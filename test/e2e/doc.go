// Package e2e has tests only: weir on a real Kubernetes node, from outside.
// README.md says how to run them.
package e2e
