// A sample function: a program that is started for each request, reads it from
// stdin and writes the answer to stdout. It counts lines, words and bytes.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"os"
	"unicode"
)

func main() {
	var lines, words, bytes int
	inWord := false
	for in := bufio.NewReader(os.Stdin); ; {
		r, size, err := in.ReadRune()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		bytes += size
		if r == '\n' {
			lines++
		}
		space := unicode.IsSpace(r)
		if !space && !inWord {
			words++
		}
		inWord = !space
	}
	fmt.Printf("%7d %7d %7d\n", lines, words, bytes)
}
