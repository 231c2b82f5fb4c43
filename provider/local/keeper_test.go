package local

import (
	"testing"
)

func TestPlaceholder(t *testing.T) {}
