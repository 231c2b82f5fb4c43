package process

import (
	"errors"
	"strings"
)

// What Split finds wrong with a command.
var (
	errQuote     = errors.New("a quote is not closed")
	errBackslash = errors.New("ends in a backslash")
	errNUL       = errors.New("contains a NUL byte")
)

// Split cuts a command into words as a POSIX shell does: at blanks outside
// quotes; single quotes keep all as it is, double quotes let a backslash escape
// $ ` " \ and a line end; elsewhere a backslash escapes any byte. Nothing is expanded: variables,
// globs, ~, comments and operators stay as they stand. A command of blanks
// only has no words.
func Split(command string) ([]string, error) {
	var (
		words []string
		word  strings.Builder
		open  bool // a word has begun, be it empty
	)
	for i := 0; i < len(command); {
		c := command[i]
		i++
		switch c {
		case 0:
			return nil, errNUL
		case ' ', '\t', '\n':
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		case '\\':
			if i == len(command) {
				return nil, errBackslash
			}
			if command[i] == 0 {
				return nil, errNUL
			}
			if command[i] != '\n' { // a line continued is nothing at all
				word.WriteByte(command[i])
				open = true
			}
			i++
		case '\'', '"':
			n, err := quoted(&word, command[i:], c)
			if err != nil {
				return nil, err
			}
			i += n
			open = true
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

// quoted appends what s says up to the closing quote, and returns the bytes
// taken with it.
func quoted(word *strings.Builder, s string, quote byte) (int, error) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == quote:
			return i + 1, nil
		case c == 0:
			return 0, errNUL
		case c == '\\' && quote == '"' && i+1 < len(s) && strings.IndexByte("$`\"\\\n", s[i+1]) >= 0:
			i++
			if s[i] != '\n' {
				word.WriteByte(s[i])
			}
		default:
			word.WriteByte(c)
		}
	}
	return 0, errQuote
}
