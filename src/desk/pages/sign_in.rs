//! Who are you: a token becomes a session.

use maud::{Markup, html};

use super::{Page, Section, layout, links, pieces::Field};

/// The page at `/sign-in`. `back`: the path to go on to; `refused`: why the last try failed.
#[must_use]
pub fn sign_in(page: &Page, back: &str, refused: Option<&str>) -> Markup {
    let body = html! {
        div class="slim card" {
            h1 { "Sign in" }
            @if let Some(why) = refused { p class="said refused" role="alert" { (why) } }
            form class="act" method="post" action=(links::SIGN_IN) {
                input type="hidden" name="back" value=(back);
                (Field::new("token", "token", "Token").required().hint("The one that was made for you; its role decides what you may do.").input("password"))
                button { "Sign in" }
            }
        }
    };
    layout(page, Section::None, "Sign in", &body)
}
