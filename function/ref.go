package function

import (
	"fmt"
	"strings"
)

// Ref names a function. Both parts are DNS labels.
type Ref struct{ Name, Namespace string }

// String is NAME.NAMESPACE, the form of metrics and logs.
func (r Ref) String() string { return r.Name + "." + r.Namespace }

// ParseRef reads NAME or NAME.NAMESPACE. The error wraps ErrName.
func ParseRef(text, namespace string) (Ref, error) {
	r := Ref{text, namespace}
	if name, ns, dotted := strings.Cut(text, "."); dotted {
		r = Ref{name, ns}
	}
	if !label(r.Name) || !label(r.Namespace) {
		if len(text) > 128 {
			text = text[:128] + "…"
		}
		return Ref{}, fmt.Errorf("%w: %q; expected NAME or NAME.NAMESPACE of lower case letters, digits and '-', each at most 63 long", ErrName, text)
	}
	return r, nil
}

// label says whether s is a DNS label as RFC 1123 has it, in lower case.
func label(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
